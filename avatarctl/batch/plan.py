"""Plan a batch: what has to be rendered, longest first, and how long it takes. Reads only."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from avatarctl.audio.decode import probe
from avatarctl.batch.history import ItemState, item_state
from avatarctl.batch.items import Item
from avatarctl.errors import AvatarError, InputFileError, UsageError, WeightsError
from avatarctl.render.crop import Framing, framing_json
from avatarctl.render.estimate import Estimate, estimate
from avatarctl.render.inputs import Checked, separator_of
from avatarctl.weights import find_weights

SHOWN = ("video_s", "windows", "window_steps", "time_s", "time_basis")  # of an item's estimate


@dataclass(frozen=True)
class Planned:
    """An item with how far it is and what it takes."""

    item: Item
    item_state: ItemState
    takes: Estimate
    framing: Framing | None = None
    """How its picture is framed, where that was looked at and is around a face."""

    @property
    def weight(self) -> int:
        """Work in numbers that compare items: passes times pictures' size."""
        width, height = self.item.job.render.size
        return self.takes.passes * width * height * self.item.job.render.window


@dataclass(frozen=True)
class BatchPlan:
    """The whole work: what runs (longest first), what is finished, and what changed and is left alone."""

    run: tuple[Planned, ...]
    finished: tuple[Planned, ...]
    changed: tuple[Planned, ...]
    foreign: tuple[Planned, ...]
    passed_over: tuple[Path, ...] = ()
    """Files of the source that no video is made of."""

    def everything(self) -> tuple[Planned, ...]:
        """Return all items."""
        return (*self.run, *self.finished, *self.changed, *self.foreign)


def checked_of(item: Item) -> Checked:
    """Return the checked job of an item: its files were looked at before."""
    job = item.job
    audio = probe(job.audio, job.render.audio_track)
    return Checked(job, audio, find_weights(job.weights, job.render.size, job.variant), separator_of(job))


def plan_batch(items: Sequence[Item], redo: bool) -> tuple[BatchPlan, list[tuple[Item, AvatarError]]]:
    """Return what is to be done, and the items that show only now that they can't be. ``redo``: what changed is made anew."""
    planned: list[Planned] = []
    wrong: list[tuple[Item, AvatarError]] = []
    for item in items:
        try:
            checked = checked_of(item)
            planned.append(Planned(item, item_state(item, checked), estimate(checked)))
        except (InputFileError, UsageError, WeightsError) as error:  # such as a recording that is cut off
            wrong.append((item, error))
    by_state: dict[str, list[Planned]] = {}
    for each in planned:
        state = each.item_state.state
        if redo and state in ("changed", "foreign"):
            state = "new"
        by_state.setdefault(state, []).append(each)
    run = [*by_state.get("new", []), *by_state.get("begun", [])]
    plan = BatchPlan(
        tuple(longest_first(run)),
        tuple(by_state.get("finished", [])),
        tuple(by_state.get("changed", [])),
        tuple(by_state.get("foreign", [])),
    )
    return plan, wrong


def longest_first(planned: Sequence[Planned]) -> list[Planned]:
    """Sort by the time an item takes, where that is known of all, else by its work: the plan ends evenly."""
    timed = all(each.takes.time_s is not None for each in planned)
    return sorted(planned, key=lambda each: (-(each.takes.time_s or 0.0) if timed else -each.weight, each.item.index))


def beside(planned: Sequence[Planned], workers: int) -> list[Planned]:
    """Return items with the times that they take beside each other: workers on the CPU share its cores, each has its GPU."""

    def shared(takes: Estimate) -> Estimate:
        if takes.time_s is None or takes.free_bytes is not None or not takes.time_basis.startswith("calculated"):
            return takes
        return replace(takes, time_s=takes.time_s * min(workers, len(planned)))

    return [replace(each, takes=shared(each.takes)) for each in planned]


def ends_after_s(planned: Sequence[Planned], workers: int) -> float | None:
    """Return the seconds until the last worker is done, each taking the next item when it is free; None if unknown."""
    free = [0.0] * max(workers, 1)
    for each in planned:
        if each.takes.time_s is None:
            return None
        heapq.heapreplace(free, free[0] + each.takes.time_s)
    return max(free)


def plan_json(plan: BatchPlan, workers: int) -> dict[str, Any]:
    """Return the plan as `--dry-run --json` has it."""
    runs = {each.item.index for each in plan.run}
    return {
        "workers": workers,
        "time_s": ends_after_s(plan.run, workers),
        "passed_over": [str(path) for path in plan.passed_over],
        "items": [
            {
                "output": each.item.name,
                "audio": str(each.item.job.audio),
                "image": str(each.item.job.image),
                "state": each.item_state.state,
                "why": each.item_state.why,
                "runs": each.item.index in runs,
                **framing_json(each.framing),
                **{name: getattr(each.takes, name) for name in SHOWN},
            }
            for each in plan.everything()
        ],
    }
