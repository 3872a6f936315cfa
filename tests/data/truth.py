"""Test helper: compare what `data prepare` found in recordings with what is true of them (from a folder)."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filmed import Recording

Rows = list[dict[str, Any]]


@dataclass
class Score:
    """How often each outcome was true (``expected``), found, and both; errors of offsets and cuts in pictures."""

    expected: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    both: Counter[str] = field(default_factory=Counter)
    lag_errors: list[float] = field(default_factory=list)
    cut_errors: list[float] = field(default_factory=list)
    warned: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def add(self, recording: Recording, rows: Rows) -> None:
        """Compare the candidates of one recording with its truth."""
        left = sorted(rows, key=lambda row: row["track"] or 0)
        for begin, end, wanted in recording.truth.parts:
            near = [row for row in left if overlap(row, begin, end) > 0.5 * min(end - begin, length(row))]
            row = next((row for row in near if outcome(row) == wanted), near[0] if near else None)
            got = outcome(row) if row is not None else "nothing"
            if row is not None:
                left.remove(row)
            self.expected[wanted] += 1
            self.found[got] += 1
            self.both[wanted] += got == wanted
            if got != wanted:
                self.wrong.append(f"{recording.name}: {wanted} was found as {got}")
            elif row is not None and recording.truth.lag_s and "lag_s" in row["scores"]:
                self.lag_errors.append(abs(row["scores"]["lag_s"] - recording.truth.lag_s) * 25)
            if row is not None and recording.name == "one":
                self.lag_errors.append(abs(row["scores"]["lag_s"]) * 25)
        for row in left:  # candidates that there shouldn't be
            if length(row) >= 1:
                self.found[outcome(row)] += 0 if row["reason"] in ("short", "silent") else 1
                self.wrong.append(f"{recording.name}: {outcome(row)} at {row['start_s']} is one too many")
        if recording.name == "cut":
            edges = {row[name] for row in rows for name in ("start_s", "end_s")}
            self.cut_errors += [min(abs(edge - cut) for edge in edges) * 25 for cut in recording.truth.cuts_s]
        for warning in recording.truth.warnings:
            self.warned[warning] += any(warning in row["warnings"] for row in rows)


def outcome(row: dict[str, Any]) -> str:
    """Return the reason, or that it was kept."""
    return row["reason"] or "kept"


def length(row: dict[str, Any]) -> float:
    """Return seconds."""
    return row["end_s"] - row["start_s"]


def overlap(row: dict[str, Any], begin: float, end: float) -> float:
    """Return the seconds that a candidate has in common with a stretch; one of a whole file has all."""
    if row["track"] is None:
        return end - begin
    return min(row["end_s"], end) - max(row["start_s"], begin)


def rows_of(clips: Path) -> dict[str, Rows]:
    """Return the candidates of prepare.jsonl by the name of the recording."""
    found: dict[str, Rows] = {}
    for line in (clips / "prepare.jsonl").read_text().splitlines():
        row = json.loads(line)
        found.setdefault(Path(row["source"]).stem, []).append(row)
    return found
