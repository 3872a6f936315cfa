"""Tests with plans and a predictor that betrays every wrong read: all orders of window steps give the same bits."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from sampling.chaos import make, plans, run, run_shuffled, step_by_step

from avatarctl.sampling.wavefront import Progress, next_window, order
from avatarctl.sampling.windows import SAMPLE_RATE_HZ, Plan, plan_windows

blends = st.sampled_from(["linear", "log"])


def plan_of(seconds: int, tail: str = "full", overlap: int = 5) -> Plan:
    return plan_windows(seconds * SAMPLE_RATE_HZ, Fraction(25), 21, overlap, tail)


def reach_of(plan: Plan) -> int:
    return max(len(plan.right_of(index)) for index in range(plan.count))


# -- Same bits in any order -------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=8)
@given(plans(most_frames=80), st.integers(1, 6), blends, st.integers(0, 2**32))
@example(Plan(317, Fraction(25), 80, 21, 5), 4, "linear", 0)
@example(Plan(1501, Fraction(25), 60, 21, 20), 3, "log", 1)
@example(Plan(1501, Fraction(25), 61, 21, 15, "reference"), 5, "linear", 2)
@example(Plan(1501, Fraction(25), 4, 3, 2), 12, "linear", 3)
def test_every_order_gives_the_published_result(plan: Plan, steps: int, blend: str, seed: int) -> None:
    all_orders_are_equal(plan, steps, blend, seed)


@pytest.mark.long
@settings(deadline=None, max_examples=50)
@given(plans(), st.integers(1, 12), blends, st.integers(0, 2**32))
@example(Plan(1501, Fraction(25), 376, 21, 5), 4, "linear", 0)
@example(Plan(1597, Fraction(25), 400, 21, 20), 12, "log", 4)
def test_every_order_of_a_long_plan_gives_the_published_result(plan: Plan, steps: int, blend: str, seed: int) -> None:
    all_orders_are_equal(plan, steps, blend, seed)


def all_orders_are_equal(plan: Plan, steps: int, blend: str, seed: int) -> None:
    expected = step_by_step(plan, steps, blend)
    assert torch.equal(run(make(plan, steps, blend), "steps"), expected)
    assert torch.equal(run(make(plan, steps, blend), "wavefront"), expected)
    assert torch.equal(run_shuffled(make(plan, steps, blend), seed), expected)


def test_predictor_betrays_a_wrong_read() -> None:
    """Without this the tests above could pass for the wrong reason: every part of what is read has to matter."""
    plan = plan_of(10)
    expected = step_by_step(plan, 4)
    assert torch.isfinite(expected).all()
    assert not torch.equal(expected, step_by_step(plan, 4, "log"))

    sampler = make(plan, 4)
    sampler.read = lambda window: (
        sampler.windows[window.index].latents  # its own outcome, not that of the windows to its right
        if window.index in sampler.windows
        else sampler.noise(window.start, window.stop)
    )
    wrong = run(sampler, "wavefront")
    assert (wrong != expected).float().mean() > 0.9


# -- Order ------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(plans(most_frames=120), st.integers(1, 8), st.sampled_from(["wavefront", "steps"]))
def test_every_window_step_runs_once_when_its_needs_are_met(plan: Plan, steps: int, kind: str) -> None:
    assume(plan.count * steps <= 400)
    progress = Progress(plan, steps)
    done = [0] * plan.count
    for count, (index, i) in enumerate(order(plan, steps, kind, progress)):
        assert progress.steps_done() == count
        assert i == done[index]
        assert all(done[left] == i + 1 for left in plan.left_of(index))
        assert all(done[right] == i for right in plan.right_of(index))
        ready = [w for w in range(plan.count) if progress.ready(w)]
        assert progress.anti_diagonal() == ready
        assert index in ready
        if kind == "wavefront":
            assert index == ready[0]
        # Windows that are ready together share no frames.
        assert all(plan.stop_of(a) <= plan.start_of(b) for a, b in pairwise(ready))
        done[index] += 1
    assert done == [steps] * plan.count
    assert progress.finished()
    assert progress.in_flight() == {}


def test_steps_order_is_all_windows_at_each_step() -> None:
    plan = plan_of(10)
    assert list(order(plan, 3, "steps")) == [(index, i) for i in range(3) for index in range(plan.count)]


def test_wavefront_by_hand() -> None:
    plan = plan_windows(45 * 640 * 4, Fraction(25), 21, 5, "reference")
    assert [(w.start, w.stop) for w in plan.windows()] == [(0, 21), (16, 37), (32, 46)]
    expected = [(0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2), (2, 1), (1, 2), (2, 2)]
    assert list(order(plan, 3)) == expected


@settings(deadline=None, max_examples=60)
@given(plans(), st.integers(1, 12))
@example(plan_of(120), 12)
@example(plan_of(60, overlap=20), 8)
def test_windows_in_flight_are_bounded_whatever_the_length(plan: Plan, steps: int) -> None:
    assume(plan.count * steps <= 4_000)
    reach = reach_of(plan)
    progress, most = Progress(plan, steps), 0
    while not progress.finished():
        progress.advance(next_window(progress))
        most = max(most, len(progress.in_flight()))
    assert most <= min(reach * (steps - 1) + 1 + reach, plan.count)


@pytest.mark.parametrize(("overlap", "steps", "most"), [(5, 10, 11), (5, 1, 2), (15, 10, 31), (15, 5, 16)])
def test_windows_in_flight_do_not_grow_with_the_length(overlap: int, steps: int, most: int) -> None:
    """Counted with the window whose step is being computed: the bound is met exactly, not only kept."""
    for seconds in (60, 240):
        plan = plan_of(seconds, "reference", overlap)
        progress, widest = Progress(plan, steps), 0
        while not progress.finished():
            index = next_window(progress)
            widest = max(widest, len(progress.in_flight() | {index: 0}))
            progress.advance(index)
        assert widest == most == plan.reach * (steps - 1) + 1 + plan.reach


# -- Until the first window -------------------------------------------------------------------------------------------


def steps_until_first_window(plan: Plan, progress: Progress, kind: str) -> int:
    """Count window steps until window 0 has all of its own."""
    while progress.done(0) < progress.steps:
        progress.advance(next_window(progress, kind))
    return progress.steps_done()


@pytest.mark.parametrize(("seconds", "count"), [(60, 1_177), (600, 11_516), (3_600, 68_895)])
def test_first_window_in_steps_order(seconds: int, count: int) -> None:
    plan = plan_of(seconds)
    if seconds == 60:
        progress = Progress(plan, 50)
    else:  # the order is plain up to the last step, so it may as well begin there
        progress = Progress(plan, 50, dict.fromkeys(range(plan.count), 49))
    assert steps_until_first_window(plan, progress, "steps") == count


@pytest.mark.parametrize(
    ("seconds", "tail", "count"),
    [
        (60, "reference", 924),
        (60, "full", 925),  # the last window, moved left, reaches into two: one more step of it is needed
        (600, "full", 1_275),
        (3_600, "full", 1_275),
    ],
)
def test_first_window_in_wavefront_order(seconds: int, tail: str, count: int) -> None:
    plan = plan_of(seconds, tail)
    assert steps_until_first_window(plan, Progress(plan, 50), "wavefront") == count


def test_first_window_is_retired_when_its_neighbour_is_done() -> None:
    progress = Progress(plan_of(600), 50)
    while progress.first == 0:
        progress.advance(next_window(progress))
    assert progress.steps_done() == 1_275 + 50
