"""Collect progress and outcomes of items: progress of the whole batch, the table, the summary."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from avatarctl import console, durable
from avatarctl.batch.items import Bad, Item
from avatarctl.batch.plan import Planned
from avatarctl.batch.work import Outcome
from avatarctl.progress import Progress
from avatarctl.render.guard import guarded

SUMMARY = "summary.json"
STAGE = "rendering"  # of an item whose worker says nothing else
NAMED = 6  # of the files passed over, in a note; summary.json has all
# Words of the summary. waiting: nothing was done in this run; stopped: begun, saved, to go on.
UNDONE = ("failed", "changed", "stopped", "waiting")


class Tally:
    """What became of every item so far."""

    def __init__(self, show: Progress) -> None:
        self.rows: dict[str, dict[str, Any]] = {}  # by name
        self._passed_over: list[str] = []
        self._warned: set[str] = set()
        self._show = show
        self._began = time.monotonic()
        self._done: dict[str, int] = {}
        self._total: dict[str, int] = {}
        self._before: dict[str, int] = {}  # window steps of earlier runs
        self._first = 0.0  # when the first window step was reported: what came before is no measure of speed

    # -- What comes in -----------------------------------------------------------------------------------------------

    def expect(self, planned: Sequence[Planned], state: str) -> None:
        """Take in items that wait, are finished or changed."""
        for each in planned:
            there_s = round(each.takes.video_s, 3) if state == "finished before" else 0.0
            self._row(each.item.name, state, each.item_state.why, each.item, video_s=there_s)
            facts = {"video_s": there_s} if there_s else {}
            console.event("item", item=each.item.name, state=state, why=each.item_state.why, **facts)
            if state == "waiting":
                self._total[each.item.name], self._done[each.item.name] = each.takes.window_steps, 0

    def refuse(self, bad: Sequence[Bad]) -> None:
        """Take in items that can't be made."""
        for each in bad:
            self._row(each.name, "failed", each.message, None, where=each.where, exit_code=each.exit_code)
            console.event("item", item=each.name, state="failed", why=each.message, exit_code=each.exit_code)
            self._say(f"{each.name}: {each.message}")

    def pass_over(self, paths: Sequence[Path]) -> None:
        """Take in files that no video is made of."""
        if paths:
            self._passed_over += [str(path) for path in paths]
            console.note(f"passed over {named(paths)}")

    def report(self, item: Item, done: int, total: int, stage: str = "") -> None:
        """Take in the window steps of an item that is being made, and what is being done with it; ``total`` 0: only that."""
        if not total:
            self._tell(item=item.name, stage=stage or STAGE)
            return
        self._total[item.name], self._done[item.name] = total, done
        self._before.setdefault(item.name, done)
        self._first = self._first or time.monotonic()
        self._tell(item=item.name, stage=stage or STAGE, item_window_steps=done, item_of=total)

    def attempt(self, item: Item) -> None:
        """Take in that a worker begins with an item."""
        self.rows[item.name]["attempts"] += 1
        console.event("item", item=item.name, state="started", attempt=self.rows[item.name]["attempts"])

    def ended(self, item: Item, outcome: Outcome) -> None:
        """Take in how an item ended."""
        row = self.rows[item.name]
        row.update(state=outcome.state, why=outcome.message, exit_code=outcome.exit_code)
        row.update(wall_s=outcome.wall_s, video_s=outcome.video_s, window_steps=outcome.window_steps)
        row.update(notes=list(outcome.notes))
        numbers = {name: row[name] for name in ("wall_s", "video_s", "window_steps", "exit_code")}
        console.event("item", item=item.name, state=outcome.state, why=outcome.message, notes=row["notes"], **numbers)
        if outcome.state == "done":
            self._done[item.name] = self._total[item.name]
            times = f"{console.clock(outcome.video_s)} of video in {console.clock(outcome.wall_s)}"
            self._say(f"{item.name}: done, {times}")
            for note in dict.fromkeys(outcome.notes):
                if note not in self._warned:  # it names the picture, which many videos may share
                    self._warned.add(note)
                    self._say(f"warning: {note}")
        elif outcome.state == "failed":
            self._total.pop(item.name, None)
            self._done.pop(item.name, None)
            self._say(f"{item.name}: failed: {outcome.message}")
        self._tell(item=item.name, stage=outcome.state)

    def measured(self, item: Item, row: dict[str, Any] | None, why: str) -> None:
        """Take in what was measured of a video that is there, or why nothing could be."""
        self.rows[item.name]["evaluation"] = row
        if row is None:
            self.rows[item.name]["notes"] = [*self.rows[item.name]["notes"], f"not measured: {why}"]
            self._say(f"{item.name}: not measured: {why}")
        console.event("item", item=item.name, state="measured" if row else "not measured", why=why)

    def forget_failed(self, where: str) -> bool:
        """Drop the rows of a source whose video failed, since it is tried anew; tell whether there were any."""
        failed = [name for name, row in self.rows.items() if row["where"] == where and row["state"] == "failed"]
        for name in failed:
            del self.rows[name]
        return bool(failed)

    def _row(self, name: str, state: str, why: str, item: Item | None, **more: Any) -> None:
        job = item.job if item else None
        self.rows[name] = {
            "output": name,
            "audio": str(job.audio) if job else None,
            "image": str(job.image) if job else None,
            "where": item.where if item else None,
            "state": state,
            "why": why,
            "exit_code": 0,
            "attempts": 0,
            "wall_s": 0.0,
            "video_s": 0.0,
            "window_steps": 0,
            "notes": [],
            **more,
        }

    def _say(self, text: str) -> None:
        """Tell people; programs have the event."""
        if not console.events():
            console.note(text)

    def _tell(self, **facts: Any) -> None:
        done, total = sum(self._done.values()), sum(self._total.values())
        fresh = done - sum(self._before.values())
        if fresh > 0 and total > done:
            facts["left_s"] = round((time.monotonic() - self._first) * (total - done) / fresh, 1)
        self._show(done, total, **facts)

    # -- What goes out -----------------------------------------------------------------------------------------------

    def failed(self) -> list[dict[str, Any]]:
        """Return the rows that went wrong."""
        return [row for row in self.rows.values() if row["state"] == "failed"]

    def undone(self) -> list[dict[str, Any]]:
        """Return the rows whose video isn't there."""
        return [row for row in self.rows.values() if row["state"] in UNDONE]

    def summary(self, workers: int) -> dict[str, Any]:
        """Return what summary.json holds."""
        rows = list(self.rows.values())
        return {
            "counts": dict(sorted(Counter(row["state"] for row in rows).items())),
            "workers": workers,
            "wall_s": round(time.monotonic() - self._began, 3),
            "video_s": round(sum(row["video_s"] for row in rows), 3),
            "passed_over": self._passed_over,
            "items": rows,
        }


def named(paths: Collection[Path]) -> str:
    """Return "3 files: a, b, c" for files that were passed over."""
    names = [path.name + ("/" if path.is_dir() else "") for path in paths]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{len(names)} file{'s' if len(names) != 1 else ''}: {', '.join(names[:NAMED])}{more}"


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Write summary.json, whole."""
    with guarded(folder):
        durable.replace(folder / SUMMARY, durable.to_json(summary))


def table_of(summary: dict[str, Any], told: bool) -> str:
    """Return the summary for people: what they weren't told while it was done, and all counts."""
    cells = [
        (row["state"], row["output"], _clock(row["video_s"]), _clock(row["wall_s"]), row["why"])
        for row in summary["items"]
        if row["state"] != "done" or not told
    ]
    counts = ", ".join(f"{count} {state}" for state, count in summary["counts"].items())
    rows = console.table(("STATE", "VIDEO", "LENGTH", "TIME", ""), cells) + "\n" if cells else ""
    return f"{rows}{counts}, in {console.clock(summary['wall_s'])}"


def _clock(seconds: float) -> str:
    return console.clock(seconds) if seconds else ""
