"""The order of window steps, and which steps need which.

After a window's step, its frames hold its own prediction, blended at its left edge with what the windows to its left hold
after the same step; the windows to its right then blend with it and own the frames they cover. So of all windows that
cover a frame, the last one holds the frame's value of a step. From this follows when window ``w``, with ``i`` steps done,
may run its next step:

- every window to its left that shares frames has ``i + 1`` steps done (its edge is blended with their outcome), and
- every window to its right that shares frames has ``i`` steps done (it reads their outcome of the step before).

Then no neighbour can be further than that, which is why one tensor per window is enough (see ``denoise``). Any order that
keeps to this gives the same bits.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Literal

from avatarctl.sampling.windows import Plan

Order = Literal["wavefront", "steps"]


class Progress:
    """How many steps each window has done. ``first``: all windows before it are retired, final and not needed any more."""

    def __init__(self, plan: Plan, steps: int, done: Mapping[int, int] | None = None, first: int = 0) -> None:
        self.plan, self.steps, self.first = plan, steps, first
        self._done = {index: count for index, count in (done or {}).items() if count}

    def done(self, index: int) -> int:
        """Return the steps that a window has done."""
        return self.steps if index < self.first else self._done.get(index, 0)

    def in_flight(self) -> dict[int, int]:
        """Return window -> steps done for the windows that have begun and are still needed."""
        return dict(self._done)

    def ready(self, index: int) -> bool:
        """Return whether a window's next step can run now."""
        done = self.done(index)
        return (
            index < self.plan.count
            and done < self.steps
            and all(self.done(left) > done for left in self.plan.left_of(index))
            and all(self.done(right) >= done for right in self.plan.right_of(index))
        )

    def advance(self, index: int) -> list[int]:
        """Note a step of a window; return the windows that are retired by it: done, and so are all that share their frames."""
        self._done[index] = self.done(index) + 1
        retired = []
        while self.first < self.plan.count and self._finished(self.first):
            retired.append(self.first)
            self._done.pop(self.first)
            self.first += 1
        return retired

    def finished(self) -> bool:
        """Return whether every window is final."""
        return self.first == self.plan.count

    def steps_done(self) -> int:
        """Count the window steps done."""
        return self.first * self.steps + sum(self._done.values())

    def anti_diagonal(self) -> list[int]:
        """Return all windows whose next step can run now, from left to right: they don't depend on each other."""
        stop = max(self._done, default=self.first) + 2
        return [index for index in range(self.first, min(stop, self.plan.count)) if self.ready(index)]

    def _finished(self, index: int) -> bool:
        return all(self.done(window) == self.steps for window in [index, *self.plan.right_of(index)])


def order(
    plan: Plan, steps: int, kind: Order = "wavefront", progress: Progress | None = None
) -> Iterator[tuple[int, int]]:
    """Return all window steps (window, step) in an order that can be run; ``progress`` is kept up to date and may be resumed.

    ``steps`` finishes step i of every window before step i + 1 of any; ``wavefront`` always runs the leftmost window that
    is ready, so that the first windows are final while the last have not begun, and at most ``k * (steps - 1) + 1 + k``
    windows are in flight (k: windows that reach into one to its left).
    """
    progress = progress or Progress(plan, steps)
    while not progress.finished():
        index = next_window(progress, kind)
        yield index, progress.done(index)
        progress.advance(index)


def next_window(progress: Progress, kind: Order = "wavefront") -> int:
    """Return the window whose next step comes next in this order."""
    if kind == "steps":
        # Left windows are never behind right ones: next is the leftmost of those that have done as little as the last.
        windows = range(progress.first, progress.plan.count)
        least = progress.done(windows[-1])
        return windows[bisect_left(windows, True, key=lambda index: progress.done(index) <= least)]
    return next(index for index in range(progress.first, progress.plan.count) if progress.ready(index))


def share_out(
    progress: Progress, processes: int, most_each: int = 1, ran_by: MutableMapping[int, int] | None = None
) -> list[list[int]]:
    """Return the windows that each process steps next: the leftmost of those that are ready, up to ``most_each`` for each.

    A window stays where it ran last (``ran_by``, kept up to date) if that process has room: it has heard its sound. Of the
    others process 0 is asked last, since it also writes the video. The same in every process, whatever it ran itself.
    """
    ran_by = {} if ran_by is None else ran_by
    chosen = progress.anti_diagonal()[: processes * most_each]
    most = -(-len(chosen) // processes)
    shares: list[list[int]] = [[] for _ in range(processes)]
    moving = []
    for index in chosen:
        process = ran_by.get(index)
        if process is not None and process < processes and len(shares[process]) < most:
            shares[process].append(index)
        else:
            moving.append(index)
    for index in moving:
        process = min(range(processes), key=lambda one: (len(shares[one]), -one))
        shares[process].append(index)
        ran_by[index] = process
    return shares
