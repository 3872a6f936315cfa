"""Evaluate weights of the puppet on held-out pairs, over minutes, and by settings. READ FIRST in this folder."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from avatarctl import __version__, durable
from avatarctl.evaluation.report import write_curves
from avatarctl.progress import Progress
from avatarctl.puppet.folders import EVALUATION_SEED
from avatarctl.puppet.measure import Bench, Pair, for_tuning, held_out, measured
from avatarctl.puppet.world import report as report_of
from avatarctl.sampling.passes import passes_of
from avatarctl.settings.render import RenderSettings

REPORT, TABLES, CURVES = "report.json", "report.md", "report.png"
TUNING_PAIRS = 4
LOOK_PAIRS = 10  # of the held-out ones, for a LoRA
LONG_SEED = EVALUATION_SEED + 2**21
# What is compared: title, and the rows, each of which changes settings.
TABLE_ROWS: dict[str, dict[str, dict[str, Any]]] = {
    "guidance": {
        "none": {"guidance": "none"},
        "cfg, audio 1.5": {"guidance": "cfg", "audio_scale": 1.5},
        "cfg, audio 2": {"guidance": "cfg", "audio_scale": 2.0},
        "cfg, audio 3": {"guidance": "cfg", "audio_scale": 3.0},
        "native, 1 + 1": {"guidance": "native", "native_audio_weight": 1.0, "native_token_weight": 1.0},
    },
    "overlap": {str(overlap): {"overlap": overlap} for overlap in (2, 5, 10)},
    "schedule": {schedule: {"schedule": schedule} for schedule in ("uniform", "released")},
    "steps": {str(steps): {"steps": steps} for steps in (4, 6, 8, 10, 16, 25)},
}


@dataclass(frozen=True)
class Asked:
    """What is to be measured."""

    pairs: int = 20
    minutes: int = 5  # of the long render; 0 leaves it out
    tables: bool = True
    lora: tuple[Path, float] | None = None
    students: tuple[tuple[Path, RenderSettings], ...] = ()  # each with the settings that it asks for


def _title(file: Path, own: RenderSettings, taken: Mapping[str, Any]) -> str:
    """Return what a student is called in the report: by its steps, and by its file where another has as many."""
    title = f"student of {own.steps} steps"
    return f"{title} ({file.parent.name}/{file.name})" if title in taken else title


def evaluate(bench: Bench, settings: RenderSettings, asked: Asked, show: Progress) -> dict[str, Any]:
    """Measure what was asked for and write report.json, report.md and report.png; return the report.

    What was measured before in the same folder, with the same weights and settings, is kept. ``goals`` in the report
    says what is reached. Raises ``UsageError`` without espeak-ng, which speaks the held-out voices.
    """
    rows = [(table, name, change) for table, rows in TABLE_ROWS.items() for name, change in rows.items()]
    total = asked.pairs * (1 + len(asked.students)) + bool(asked.minutes)
    total += asked.tables * len(rows) * TUNING_PAIRS + LOOK_PAIRS * bool(asked.lora)
    done = 0

    def measure(pair: Pair, settings: RenderSettings, bench: Bench = bench) -> dict[str, Any]:
        nonlocal done
        found = measured(bench, pair, settings)
        done += 1
        show(done, total)
        return found

    pairs = [measure(held_out(number), settings) for number in range(asked.pairs)]
    report: dict[str, Any] = {
        "avatarctl": __version__,
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "settings": settings.model_dump(mode="json"),
        "weights": bench.made_with()["weights"],
        "held_out": {"passes": passes_of(settings).total, **report_of.of_pairs(pairs)},
    }
    if asked.minutes:
        long = Pair("long", LONG_SEED, "speech", 60.0 * asked.minutes, True)
        report["long"] = report_of.of_long(measure(long, settings), asked.minutes)
    if asked.tables:
        tables: dict[str, dict[str, Any]] = {}
        for table, name, change in rows:
            changed = RenderSettings.model_validate({**settings.model_dump(), **change})
            found = [measure(for_tuning(number), changed) for number in range(TUNING_PAIRS)]
            tables.setdefault(table, {})[name] = report_of.row(found)
        report["tables"] = tables
    if asked.lora:
        with_lora = replace(bench, lora=(asked.lora,))
        dressed = [measure(held_out(number), settings, with_lora) for number in range(min(LOOK_PAIRS, asked.pairs))]
        report["lora"] = report_of.of_lora(pairs[: len(dressed)], dressed)
    for file, own in asked.students:
        taught = [measure(held_out(number), own, replace(bench, lora=((file, 1.0),))) for number in range(asked.pairs)]
        shown = {"passes": passes_of(own).total, **report_of.of_pairs(taught)}
        report.setdefault("students", {})[_title(file, own, report.get("students", {}))] = shown
    report["goals"] = [goal.to_json() for goal in report_of.goals_of(report)]
    durable.replace(bench.folder / REPORT, durable.to_json(report))
    durable.replace(bench.folder / TABLES, report_of.to_markdown(report).encode())
    write_curves(report_of.panels_of(report, pairs), bench.folder / CURVES)
    return report
