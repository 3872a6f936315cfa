"""Tests with several processes that share windows: who takes which, how much faster that is, and the same bits (over gloo)."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling.chaos import plans

from avatarctl.sampling.wavefront import Progress, share_out
from avatarctl.sampling.windows import SAMPLE_RATE_HZ, Plan, plan_windows

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.team_simulation import simulate  # noqa: E402


@settings(deadline=None, max_examples=60)
@given(plans(most_frames=120), st.integers(1, 6), st.integers(1, 9), st.integers(1, 3))
def test_every_window_step_is_given_to_one_process_when_its_needs_are_met(
    plan: Plan, steps: int, processes: int, most_each: int
) -> None:
    progress, ran_by, done = Progress(plan, steps), {}, [0] * plan.count
    while not progress.finished():
        ready = progress.anti_diagonal()
        shares = share_out(progress, processes, most_each, ran_by)
        chosen = sorted(index for share in shares for index in share)
        assert chosen == ready[: processes * most_each]  # the leftmost: what is final first is watched first
        sizes = sorted(map(len, shares))
        assert sizes[-1] <= most_each and sizes[-1] == -(-len(chosen) // processes)
        for index in chosen:
            done[index] += 1
            progress.advance(index)
    assert done == [steps] * plan.count


def test_a_window_stays_where_it_ran_and_process_0_is_asked_last() -> None:
    progress = Progress(plan_windows(60 * SAMPLE_RATE_HZ, Fraction(25), 21, 5), 50)
    ran_by: dict[int, int] = {}
    assert share_out(progress, 4, 1, ran_by) == [[], [], [], [0]]
    for _ in range(2):
        for share in share_out(progress, 4, 1, ran_by):
            for index in share:
                progress.advance(index)
    # Window 0 has two steps done, window 1 one: 0 may run its third, 2 its first.
    assert progress.anti_diagonal() == [0, 2] or progress.anti_diagonal() == [1]
    held = dict(ran_by)
    for _ in range(10):
        shares = share_out(progress, 4, 1, ran_by)
        where = {index: process for process, share in enumerate(shares) for index in share}
        assert all(where[index] == held[index] for index in where if index in held)
        assert shares[0] == [] or all(shares)
        held |= where
        for index in sorted(where):
            progress.advance(index)


@pytest.mark.parametrize(
    ("seconds", "overlap", "processes", "at_least"),
    [(60, 10, 8, 6.8), (60, 10, 4, 3.8), (60, 5, 8, 6.6), (60, 5, 4, 3.8), (300, 10, 8, 7.7), (300, 5, 2, 1.99)],
)
def test_so_many_processes_are_so_much_faster(seconds: int, overlap: int, processes: int, at_least: float) -> None:
    found = simulate(seconds, overlap, processes, steps=50)
    assert at_least <= found.speedup <= processes
    # Process 0 has no more to do than the others.
    assert found.busy[0] <= 1.02 * found.window_steps / processes and sum(found.busy) == found.window_steps


def test_several_processes_give_the_bits_of_one_also_continued_by_fewer(tmp_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).with_name("team_member.py"))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    members = [
        subprocess.Popen(
            [*command, str(rank), "3", str(tmp_path / "store")],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(3)
    ]
    for member in members:
        out, _ = member.communicate(timeout=120)
        assert member.returncode == 0 and "equal" in out, out[-3000:]
