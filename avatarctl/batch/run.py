"""Run a batch from its source of items to the summary. READ FIRST in this folder."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from avatarctl.batch.attempts import Rules
from avatarctl.batch.history import STATE
from avatarctl.batch.items import Bad, Base, Item, items_of
from avatarctl.batch.local import make_locally, places_for
from avatarctl.batch.plan import BatchPlan, plan_batch, plan_json
from avatarctl.batch.rows import Row, paired, recordings, rows_of
from avatarctl.batch.tally import Tally, write_summary
from avatarctl.batch.work import tidy
from avatarctl.console import Progress
from avatarctl.errors import BusyError, InputFileError, Interrupted, PartialFailure, UsageError, WeightsError
from avatarctl.render.folder import guarded

STEADY_S = 2.0  # a file that didn't change for so long is whole


@dataclass(frozen=True)
class Batch:
    """What a batch shall do. ``pictures``: folder of pictures named like the recordings; ``jobs`` None: as many as fit."""

    source: Path
    base: Base
    pictures: Path | None = None
    jobs: int | None = None
    on: str = "local"
    rules: Rules = field(default_factory=Rules)
    watch: bool = False


def run_batch(batch: Batch, show: Progress) -> dict[str, Any]:
    """Make every video of a batch that isn't there yet; return the summary, which is in summary.json too.

    Raises ``UsageError`` with every mistake before anything starts, ``PartialFailure`` (``data`` is the summary) when some
    items failed or were changed since they were made, ``Interrupted`` when it was stopped, ``BusyError`` when another batch
    works in the same folder.
    """
    plan, bad = look(batch)
    output = batch.base.output
    with held(output):
        for each in plan.finished:
            with suppress(BusyError):  # who made it is removing its folder
                tidy(each.item)
        tally = Tally(show)
        tally.expect(plan.run, "waiting")
        tally.expect(plan.finished, "finished before")
        tally.expect(plan.changed, "changed")
        tally.refuse(bad)
        stopped_by, workers = 0, 0
        try:
            if plan.run or batch.watch:
                stopped_by, workers = _make(batch, plan, tally)
        finally:
            summary = tally.summary(workers)
            write_summary(output, summary)
    return judge(batch, summary, tally, stopped_by)


def look(batch: Batch) -> tuple[BatchPlan, list[Bad]]:
    """Read the source and look at every file; give what is to be done. Raises ``UsageError`` with every mistake."""
    if batch.watch:
        if not batch.source.is_dir():
            raise UsageError(f"{batch.source}: got no folder, expected one to watch", "leave out --watch")
        return BatchPlan((), (), (), ()), []  # what lies there is found like what comes later
    items, bad, mistakes = items_of(_rows(batch), batch.base, not batch.source.is_dir())
    plan, wrong = plan_batch(items, batch.rules.redo)
    for item, error in wrong:
        if batch.source.is_dir() and isinstance(error, InputFileError):
            bad.append(Bad(item.name, item.where, error.message, error.hint))
        else:
            mistakes.append(f"{error.message} ({item.where})")
    mistakes += [f"output ({each.item.where}): {each.item_state.why}" for each in plan.foreign]
    if mistakes:
        some = f"{batch.source}: {len(mistakes)} mistakes, nothing was started:\n" if len(mistakes) > 1 else ""
        hint = "mend them and run this again; --name tells apart what would have one name"
        if plan.foreign:
            hint += "; choose another --output, or replace the videos there with --redo"
        raise UsageError(some + "\n".join(mistakes), hint)
    return plan, bad


def dry_run(batch: Batch) -> dict[str, Any]:
    """Return the plan and the estimate."""
    plan, bad = look(batch)
    shown = plan_json(plan, len(places_for(plan.run, batch.jobs)) if batch.on == "local" else batch.jobs or 1)
    return {**shown, "bad": [{"output": each.name, "where": each.where, "why": each.message} for each in bad]}


def _rows(batch: Batch) -> list[Row]:
    source = batch.source
    if not source.exists():
        raise InputFileError(
            f"{source}: got no such file or folder, expected recordings or a manifest", "check the path"
        )
    if not source.is_dir():
        rows = rows_of(source)
        return [paired(row, batch.pictures, True) for row in rows] if batch.pictures else rows
    found = recordings(source)
    if not found:
        raise InputFileError(
            f"{source}: got no recordings in it", "expected .wav, .mp3, .flac …; a manifest takes any file"
        )
    return [_row_of(batch, path) for path in found]


def _row_of(batch: Batch, recording: Path) -> Row:
    """Return the row of a recording: with the one picture for all, or the one of its name, there or else beside it."""
    where = str(recording)
    row = Row(where, {"audio": where}, {"audio": where})
    if batch.base.sources.get("image") == "--image":
        return row
    return paired(row, batch.pictures or recording.parent, batch.pictures is not None)


def _make(batch: Batch, plan: BatchPlan, tally: Tally) -> tuple[int, int]:
    """Run what is to be done; return the signal that stopped it, or 0, and the number of workers."""
    if batch.on != "local":
        from avatarctl.batch.cluster import make_in_cluster

        return make_in_cluster(plan.run, batch.on, batch.jobs, batch.base.output, batch.rules, tally)
    device = str(batch.base.values.get("device") or "auto")
    places = places_for(plan.run, batch.jobs, device if batch.watch else None)
    logs = batch.base.output / STATE
    for old in logs.glob("worker-*.log"):
        old.unlink()
    watched = Watched(batch, tally) if batch.watch else None
    stopped_by = make_locally(plan.run, places, logs, batch.rules, tally, watched.more if watched else lambda: None)
    return stopped_by, len(places)


class Watched:
    """A folder whose new recordings become items once they are whole; one that failed does again when its file changes."""

    def __init__(self, batch: Batch, tally: Tally) -> None:
        self._batch, self._tally = batch, tally
        self._seen: dict[Path, tuple[int, int]] = {}  # size and time of change when last looked at
        self._taken: dict[Path, tuple[int, int]] = {}
        self._looked = 0.0

    def more(self) -> Sequence[Item]:
        """Return the items of recordings that are new and didn't change since the last look."""
        if time.monotonic() - self._looked < STEADY_S:
            return ()
        self._looked = time.monotonic()
        steady = []
        for path in recordings(self._batch.source):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue  # moved away meanwhile
            now = (status.st_size, status.st_mtime_ns)
            before, self._seen[path] = self._seen.get(path), now
            if before != now or self._taken.get(path) == now:
                continue
            if path not in self._taken or self._tally.forget_failed(str(path)):
                steady.append(path)
                self._taken[path] = now
        return [item for path in steady for item in self._taken_in(path)]

    def _taken_in(self, path: Path) -> list[Item]:
        """Return a recording's item; what is wrong with it is its own failure, and stops nothing."""
        try:
            items, bad, mistakes = items_of([_row_of(self._batch, path)], self._batch.base, False)
        except WeightsError as error:
            items, bad, mistakes = [], [], [error.message]
        plan, wrong = plan_batch(items, self._batch.rules.redo)
        bad += [Bad(item.name, item.where, error.message, error.hint, error.exit_code) for item, error in wrong]
        mistakes += [each.item_state.why for each in plan.foreign]
        mistakes += [f"{item.name}: the name of another video too" for item in items if item.name in self._tally.rows]
        if mistakes:
            bad.append(Bad(path.name, str(path), "; ".join(mistakes), exit_code=UsageError.exit_code))
        self._tally.refuse(bad)
        if mistakes:
            return []
        self._tally.expect(plan.finished, "finished before")
        self._tally.expect(plan.changed, "changed")
        self._tally.expect(plan.run, "waiting")
        return [each.item for each in plan.run]


@contextmanager
def held(output: Path) -> Iterator[None]:
    """Make the output folder and hold it for this batch; raises ``BusyError``."""
    with guarded(output):
        (output / STATE).mkdir(parents=True, exist_ok=True)
        lock = FileLock(output / STATE / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise BusyError(f"{output}: another batch works in this folder", "wait for it, or stop it") from error
    try:
        yield
    finally:
        lock.release()


def judge(batch: Batch, summary: dict[str, Any], tally: Tally, stopped_by: int) -> dict[str, Any]:
    """Return the summary if every video is there; else raise the error that says what isn't."""
    undone = tally.undone()
    problem: PartialFailure | Interrupted | None = None
    if stopped_by:
        left = sum(row["state"] in ("stopped", "waiting") for row in undone)
        problem = Interrupted(
            f"stopped with {left} videos to make; all is saved", "the same command goes on", stopped_by
        )
    elif undone:
        counts = ", ".join(f"{count} {state}" for state, count in summary["counts"].items())
        hint = f"see {batch.base.output / 'summary.json'}; the same command tries again what failed"
        if any(row["state"] == "changed" for row in undone):
            hint += "; --redo makes anew what changed since it was made"
        problem = PartialFailure(f"{len(undone)} of {len(tally.rows)} videos are not done ({counts})", hint)
    if problem is not None:
        problem.data = summary
        raise problem
    return summary
