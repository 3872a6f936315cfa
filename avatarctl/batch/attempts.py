"""Decide on the next attempt at an item of a batch that failed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from avatarctl import console
from avatarctl.batch.items import Item
from avatarctl.batch.work import Outcome, lower_memory
from avatarctl.errors import DeviceError

TICK_S = 0.5


@dataclass(frozen=True)
class Rules:
    """What to do with items that go wrong."""

    retry: int = 1
    fail_fast: bool = False
    redo: bool = False


@dataclass(frozen=True)
class Attempt:
    """An item that waits for a worker: how often it failed, where, whether its memory was lowered, its inputs go along."""

    item: Item
    failures: int = 0
    lowered: bool = False
    not_here: int | None = None
    packed: bool = False


def next_attempt(attempt: Attempt, outcome: Outcome, rules: Rules, place: int | None = None) -> Attempt | None:
    """Return the next attempt at an item that failed, or None when there shall be none.

    A worker's death and errors of a device are worth another one, elsewhere; a device that is too small one in a lower memory
    mode; mistakes in files and settings are not.
    """
    if outcome.out_of_memory:
        job = attempt.item.job
        mode = lower_memory(job.placement.memory)
        if attempt.lowered or mode is None:
            return None
        placement = job.placement.model_copy(update={"memory": mode})
        item = replace(attempt.item, job=job.model_copy(update={"placement": placement}))
        console.note(f"{item.name}: out of memory, again with --memory {mode}")
        return replace(attempt, item=item, lowered=True)
    if outcome.exit_code not in (1, DeviceError.exit_code) or attempt.failures >= rules.retry:
        return None
    console.note(f"{attempt.item.name}: {outcome.message}; once more, elsewhere")
    return replace(attempt, failures=attempt.failures + 1, not_here=place)


def say_stopping() -> None:
    """Tell what the first Ctrl-C does to a batch."""
    console.note("stopping: the workers save what they have (once more: stop at once)")
