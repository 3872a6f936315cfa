"""Test helper: one of several processes that sample plans together over gloo: `team_member.py RANK SIZE STORE`.

Each plan is begun by all, continued by all but the last, and finished by process 0 alone: the bits have to be those of
sampling step by step.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from fractions import Fraction
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parents[1]))

from sampling.chaos import join, make, noise_of, predict, step_by_step

from avatarctl.sampling.denoise import Final, Sampler, schedule
from avatarctl.sampling.team import Team, TeamSampler
from avatarctl.sampling.windows import Plan

CASES = (
    (Plan(401, Fraction(25), 101, 21, 5), 4, "linear", 1),
    (Plan(401, Fraction(25), 60, 21, 15), 6, "log", 1),
    (Plan(401, Fraction(25), 61, 21, 15, "reference"), 5, "linear", 2),
    (Plan(401, Fraction(25), 100, 6, 3), 3, "log", 2),
    (Plan(401, Fraction(25), 4, 3, 2), 12, "linear", 1),
    (Plan(401, Fraction(25), 40, 21, 20), 3, "linear", 3),
)


def members(team: Team, plan: Plan, steps: int, blend: str, batch: int, saved: Sampler | None) -> TeamSampler:
    """Return this process's sampler in a team that continues from where process 0 stands."""
    noise = noise_of(plan)
    first = team.agree(saved.progress.first if saved else 0)
    windows = team.share_windows(saved.windows if saved else {})
    state = (plan, schedule(steps), lambda start, stop: noise[:, :, start:stop], predict, blend, windows, first)
    return TeamSampler(team, *state, batch=batch)


def some(sampler: Sampler, rounds: int | None) -> list[Final]:
    finals: list[Final] = []
    for number, new in enumerate(sampler.run(), 1):
        finals += new
        if number == rounds:
            break
    return finals


def main(rank: int, size: int, store: str) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=timedelta(seconds=60)
    )
    fewer = dist.new_group(list(range(size - 1)))
    for plan, steps, blend, batch in CASES:
        rounds = plan.count * steps // size // 3 + 1
        sampler = members(Team(rank, size), plan, steps, blend, batch, None)
        finals = some(sampler, rounds)
        if rank < size - 1:
            second = members(Team(rank, size - 1, fewer), plan, steps, blend, batch, sampler if rank == 0 else None)
            finals += some(second, rounds)
            # Every process holds every window, whole: any of them could finish it.
            alone = make(plan, steps, blend, windows=second.windows, first=second.progress.first)
            finals += some(alone, None)
            assert torch.equal(join(finals), step_by_step(plan, steps, blend)), (plan, rank)
    sys.stdout.write("equal\n")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
