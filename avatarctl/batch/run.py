"""Run a batch from its source of items to the summary. READ FIRST in this folder."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from avatarctl import console
from avatarctl.batch.attempts import Rules
from avatarctl.batch.folders import LOOKERS, files, has_sound, kind_of, look_into, made_here, paired
from avatarctl.batch.history import STATE
from avatarctl.batch.items import NO_PICTURE, OVERWRITES, SAME_NAME, Bad, Base, Item, items_of
from avatarctl.batch.local import make_locally, places_for
from avatarctl.batch.measure import measure
from avatarctl.batch.pictures import framed, missing_faces
from avatarctl.batch.places import check_fits, check_folder
from avatarctl.batch.plan import BatchPlan, Planned, beside, checked_of, longest_first, plan_batch, plan_json
from avatarctl.batch.rows import Row, rows_of
from avatarctl.batch.tally import Tally, named, write_summary
from avatarctl.batch.work import tidy
from avatarctl.errors import (
    AvatarError,
    BusyError,
    DeviceError,
    InputFileError,
    Interrupted,
    PartialFailure,
    UsageError,
    WeightsError,
)
from avatarctl.progress import Progress
from avatarctl.render.estimate import Estimate
from avatarctl.render.guard import guarded
from avatarctl.render.machine import Here
from avatarctl.render.rehearse import rehearse_checked

# Exit codes of mistakes: they are a batch's own when all of it fails with one of them.
OF_ALL = {UsageError.exit_code, InputFileError.exit_code, WeightsError.exit_code, DeviceError.exit_code}
SHOWN = 12  # reasons in one message
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
    evaluate: bool = False


def run_batch(batch: Batch, show: Progress) -> dict[str, Any]:
    """Make every video of a batch that isn't there yet; return the summary, which is in summary.json too.

    Raises ``UsageError`` with every mistake before anything starts, ``PartialFailure`` (``data`` is the summary) when some
    items failed or were changed since they were made, ``Interrupted`` when it was stopped, ``BusyError`` when another batch
    works in the same folder.
    """
    plan, bad = look(batch)
    if bad and not plan.everything():
        raise none_can_be_made(batch, bad)
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
        tally.pass_over(plan.passed_over)
        stopped_by, workers = 0, 0
        try:
            if plan.run or batch.watch:
                stopped_by, workers = _make(batch, plan, tally)
            if batch.evaluate and not stopped_by:
                measure([each.item for each in (*plan.run, *plan.finished)], tally, show)
        finally:
            summary = tally.summary(workers)
            write_summary(output, summary)
    return judge(batch, summary, tally, stopped_by)


# -- What there is to do ----------------------------------------------------------------------------------------------


def look(batch: Batch) -> tuple[BatchPlan, list[Bad]]:
    """Read the source and look at every file; return what is to be done. Raises ``UsageError`` with every mistake."""
    check_folder(batch.base.output)
    if batch.watch:
        if not batch.source.is_dir():
            raise UsageError(f"{batch.source}: got no folder, expected one to watch", "leave out --watch")
        return BatchPlan((), (), (), ()), []  # what lies there is found like what comes later
    rows, passed_over = _rows(batch)
    items, bad, mistakes = items_of(rows, batch.base, not batch.source.is_dir())
    plan, wrong = plan_batch(items, batch.rules.redo)
    for item, error in wrong:
        if batch.source.is_dir() and isinstance(error, InputFileError):
            bad.append(Bad(item.name, item.where, error.message, error.hint))
        else:
            mistakes.append(f"{error.message} ({item.where})")
    mistakes += [f"output ({each.item.where}): {each.item_state.why}" for each in plan.foreign]
    mistakes += missing_faces(plan.run)
    if mistakes:
        some = f"{batch.source}: {len(mistakes)} mistakes, nothing was started:\n" if len(mistakes) > 1 else ""
        raise UsageError(some + "\n".join(mistakes), _hint(mistakes, bool(plan.foreign), batch.base.example))
    check_fits(plan.run)
    return replace(plan, passed_over=passed_over), bad


def _hint(mistakes: Sequence[str], foreign: bool, example: str) -> str:
    """Return what helps against these mistakes, and nothing that doesn't."""
    text = "\n".join(mistakes)
    parts = ["correct them and run this again"]
    if any(SAME_NAME in line for line in mistakes):
        parts.append("--name '{index:03d}-{stem}' tells apart what would have one name")
    if NO_PICTURE in text:
        parts.append("give a picture for all: --image PICTURE")
    if OVERWRITES in text or foreign:
        parts.append("choose another --output")
    if foreign:
        parts.append("or replace the videos there with --redo")
    if "unknown setting" in text:
        parts.append(f"`avatarctl presets show {example or 'square'}` lists the settings")
    return "; ".join(parts)


def none_can_be_made(batch: Batch, bad: Sequence[Bad]) -> AvatarError:
    """Return the error of a batch of which nothing can be made."""
    reasons = {each.message: each for each in bad}
    shown = [f"{each.name}: {each.message}" if len(reasons) > 1 else each.message for each in reasons.values()]
    if len(shown) > SHOWN:
        shown = [*shown[:SHOWN], f"… and {len(shown) - SHOWN} more"]
    codes = {each.exit_code for each in bad}
    told = PartialFailure(f"{batch.source}: none of {len(bad)} videos can be made:\n" + "\n".join(shown), bad[0].hint)
    if len(codes) == 1:
        told.exit_code = codes.pop()
    told.data = {"bad": bad_json(bad)}
    return told


def bad_json(bad: Sequence[Bad]) -> list[dict[str, Any]]:
    """Return items that can't be made as `--json` has them."""
    return [{"output": each.name, "where": each.where, "why": each.message, "hint": each.hint} for each in bad]


def dry_run(batch: Batch) -> tuple[dict[str, Any], AvatarError | None]:
    """Return the plan with its estimate, and the error that the run would end with as things stand."""
    plan, bad = look(batch)
    plan, later = rehearsed(plan)
    bad += later
    workers = len(places_for(plan.run, batch.jobs)) if batch.on == "local" else batch.jobs or 1
    plan = replace(plan, run=tuple(longest_first(beside(framed(plan.run), workers if batch.on == "local" else 1))))
    shown = plan_json(plan, workers)
    data = {**shown, "bad": bad_json(bad)}
    if bad and not plan.everything():
        return data, none_can_be_made(batch, bad)
    undone = len(bad) + len(plan.changed)
    if not undone:
        return data, None
    hint = "correct what is bad" if bad else ""
    if plan.changed:
        hint += ("; " if hint else "") + "--redo renders again what changed since it was made"
    total = len(bad) + len(plan.everything())
    return data, PartialFailure(f"{undone} of {total} videos can't be made as things stand", hint)


def rehearsed(plan: BatchPlan) -> tuple[BatchPlan, list[Bad]]:
    """Check what is to be made as far as a dry run of `generate` does; return the plan without what would fail, and that."""
    here, bad = Here(), []
    good: list[Planned] = []
    with ThreadPoolExecutor(LOOKERS) as pool:
        for each, found in zip(plan.run, pool.map(partial(_rehearse, here), plan.run), strict=True):
            if isinstance(found, AvatarError):
                bad.append(Bad(each.item.name, each.item.where, found.message, found.hint, found.exit_code))
            else:
                good.append(replace(each, takes=found))
    return replace(plan, run=tuple(good)), bad


def _rehearse(here: Here, planned: Planned) -> Estimate | AvatarError:
    try:
        return rehearse_checked(checked_of(planned.item), here).planned
    except AvatarError as error:
        return error


def _rows(batch: Batch) -> tuple[list[Row], tuple[Path, ...]]:
    """Return the rows of the source, and what it holds beside them."""
    source = batch.source
    if not source.exists():
        raise InputFileError(
            f"{source}: got no such file or folder, expected recordings or a manifest", "check the path"
        )
    if not source.is_dir():
        rows = rows_of(source)
        return [paired(row, batch.pictures, True) for row in rows] if batch.pictures else rows, ()
    found = look_into(source, batch.base.output)
    if not found.recordings:
        rest = f" (passed over {named(found.rest)})" if found.rest else ""
        raise InputFileError(
            f"{source}: got no recordings in it{rest}",
            "name a folder with sound files or videos with sound; a manifest may name files anywhere",
        )
    rows = [_row_of(batch, path) for path in found.recordings]
    if batch.base.values.get("image") is None and not any("image" in row.values or row.mistakes for row in rows):
        raise UsageError(
            f"--image: got no picture: neither the preset nor a picture beside a recording of {source} is one",
            "give one for all: --image PICTURE; or a folder of pictures named like the recordings",
        )
    used = {Path(row.values["image"]).resolve() for row in rows if "image" in row.values}
    if batch.base.values.get("image") is not None:
        used.add(Path(str(batch.base.values["image"])).resolve())
    return rows, tuple(path for path in found.rest if path.resolve() not in used)


def _row_of(batch: Batch, recording: Path) -> Row:
    """Return the row of a recording: with the one picture for all, or the one of its name, there or else beside it."""
    where = str(recording)
    row = Row(where, {"audio": where}, {"audio": where})
    if batch.base.sources.get("image") == "--image":
        return row
    pictures = batch.pictures or recording.parent
    ours = made_here(batch.base.output) if pictures.resolve().is_relative_to(batch.base.output.resolve()) else ()
    return paired(row, pictures, batch.pictures is not None, ours)


# -- The work -----------------------------------------------------------------------------------------------------------


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
    if watched:
        console.note(f"watching {batch.source}: what is put there is rendered; Ctrl-C ends it")
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
        for path in files(self._batch.source, self._batch.base.output):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue  # moved away meanwhile
            now = (status.st_size, status.st_mtime_ns)
            before, self._seen[path] = self._seen.get(path), now
            if before != now or self._taken.get(path) == now:
                continue
            if kind_of(path) != "recording" and not (kind_of(path) == "unknown" and has_sound(path)):
                self._taken[path] = now
                self._tally.pass_over([path])
            elif path not in self._taken or self._tally.forget_failed(str(path)):
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
    if stopped_by and not (batch.watch and not undone):  # Ctrl-C is how --watch ends
        left = sum(row["state"] in ("stopped", "waiting") for row in undone)
        failed = f", {len(undone) - left} not done" if len(undone) > left else ""
        problem = Interrupted(
            f"stopped with {left} videos to make{failed}; all is saved", "the same command continues", stopped_by
        )
    elif undone:
        counts = ", ".join(f"{count} {state}" for state, count in summary["counts"].items())
        hint = f"see {batch.base.output / 'summary.json'}; the same command tries again what failed"
        if any(row["state"] == "changed" for row in undone):
            hint += "; --redo renders again what changed since it was made"
        problem = PartialFailure(f"{len(undone)} of {len(tally.rows)} videos are not done ({counts})", hint)
        codes = {row["exit_code"] for row in tally.rows.values() if row["state"] == "failed"}
        if len(tally.failed()) == len(tally.rows) and len(codes) == 1 and codes <= OF_ALL:
            problem.exit_code = codes.pop()  # all went wrong in one way
    if problem is not None:
        problem.data = summary
        raise problem
    return summary
