"""Share a sampler's windows among several processes, with the bits of one.

Every process knows the whole plan and the progress, so nobody has to be told what to do next: in each round every process
runs the windows that :func:`~avatarctl.sampling.wavefront.share_out` gives it, and then passes them on whole (5 to 9
megabytes each). So every process holds the whole state after every round: any of them may run any window next, and process
0, which owns folder and video, may save it at once.

Windows live in main memory, and are passed on over gloo: a process that dies closes its connections, and the others notice.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from avatarctl.sampling.denoise import FIELDS, Final, InFlight, Sampler
from avatarctl.sampling.wavefront import Order, share_out

AXES = 5  # of a window's tensors, at most
WAIT_S, LONGEST_WAIT_S = 0.0005, 0.02  # between two looks whether a message is there


class TeamBroken(Exception):
    """Another process can't be reached any more."""


@dataclass(frozen=True)
class Team:
    """This process's number among ``size`` that talk over ``group`` (None: the default one)."""

    rank: int = 0
    size: int = 1
    group: Any = None

    def gather(self, numbers: Tensor) -> list[Tensor]:
        """Return the whole numbers of every process, in the order of the processes; all of the same shape."""
        if self.size == 1:
            return [numbers]
        rows = [torch.empty_like(numbers) for _ in range(self.size)]
        _finish(lambda: [dist.all_gather(rows, numbers, group=self.group, async_op=True)])
        return rows

    def agree(self, number: int) -> int:
        """Return every process the largest number of all: a signal that one has got stops all."""
        return max(int(row.item()) for row in self.gather(torch.tensor([number])))

    def pass_on(self, tensors: Sequence[tuple[Tensor, int]]) -> None:
        """Fill each tensor, in every process, with what it holds in the process named beside it."""
        if self.size > 1:
            _finish(lambda: [dist.broadcast(one, source, group=self.group, async_op=True) for one, source in tensors])

    def share_windows(self, windows: Mapping[int, InFlight]) -> dict[int, InFlight]:
        """Return every process the windows of process 0."""
        count = int(self.gather(torch.tensor([len(windows)]))[0].item())
        facts = torch.zeros(count, 2, dtype=torch.int64)
        if self.rank == 0:
            for row, (index, window) in enumerate(windows.items()):
                facts[row] = torch.tensor([index, window.done])
        if not count:
            return {}
        self.pass_on([(facts, 0)])
        names = [(int(index), int(done)) for index, done in facts]
        return self.exchange([names, *([] for _ in range(self.size - 1))], windows)

    def exchange(self, shares: Sequence[Sequence[tuple[int, int]]], own: Mapping[int, InFlight]) -> dict[int, InFlight]:
        """Return every process the windows of all: ``shares`` has (window, its steps) of each process, ``own`` is this one's."""
        most = max(map(len, shares))
        row = torch.stack([_shapes(own.get(index)) for index, _ in shares[self.rank]] + [_shapes(None)] * most)[:most]
        headers = self.gather(row)
        found: dict[int, InFlight] = {}
        tensors: list[tuple[Tensor, int]] = []
        for source, share in enumerate(shares):
            for (index, done), shapes in zip(share, headers[source], strict=False):
                mine = own[index] if source == self.rank else _empty(done, shapes)
                found[index] = mine
                tensors += [(tensor, source) for tensor in mine.tensors().values()]
        self.pass_on(tensors)
        return found


def _shapes(window: InFlight | None) -> Tensor:
    """Return (fields, 1 + AXES): how many axes each tensor of a window has (-1: there is none), and how long they are."""
    shapes = torch.full((len(FIELDS), 1 + AXES), -1)
    tensors = window.tensors() if window else {}
    for row, name in enumerate(FIELDS):
        if name in tensors:
            assert tensors[name].dtype == torch.float32, "what windows hold is float32"
            sizes = tensors[name].shape
            shapes[row, : 1 + len(sizes)] = torch.tensor([len(sizes), *sizes])
    return shapes


def _empty(done: int, shapes: Tensor) -> InFlight:
    """Return a window with room for tensors of these shapes."""
    rows = {name: row.tolist() for name, row in zip(FIELDS, shapes, strict=True)}
    return InFlight.of(done, {name: torch.empty(row[1 : 1 + row[0]]) for name, row in rows.items() if row[0] >= 0})


def _finish(begin: Any) -> None:
    """Wait until messages have arrived; signals are heard meanwhile. Raises ``TeamBroken`` when they can't."""
    try:
        for work in begin():
            wait_s = WAIT_S
            while not work.is_completed():
                time.sleep(wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
            work.wait()
    except RuntimeError as error:
        raise TeamBroken(str(error)) from error


class TeamSampler(Sampler):
    """A sampler that shares its windows with other processes; after each round, ``windows`` are whole in all of them."""

    def __init__(self, team: Team, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.team = team
        self._ran_by: dict[int, int] = {}

    def run(self, kind: Order = "wavefront") -> Iterator[list[Final]]:
        """Run rounds until everything is final; yield what became final by each, the same in every process."""
        assert kind == "wavefront", "in the order of steps one window at a time can run"
        while not self.progress.finished():
            shares = share_out(self.progress, self.team.size, self.batch, self._ran_by)
            mine = [self.plan.get(index) for index in shares[self.team.rank]]
            stepped = self.step(mine) if mine else {}
            steps = [[(index, self.progress.done(index) + 1) for index in share] for share in shares]
            self.windows.update(self.team.exchange(steps, stepped))
            chosen = sorted(index for share in shares for index in share)
            retired = [window for index in chosen for window in self.progress.advance(index)]
            for window in retired:
                self._ran_by.pop(window, None)
            yield [self._retire(window) for window in retired]
