"""Tests with samplers: what a step computes, that any saved state goes on to the same bits, and what a lost state costs."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from sampling.chaos import advance, join, make, plans, run, step_by_step
from torch import Tensor

from avatarctl.sampling.denoise import InFlight, Schedule, schedule
from avatarctl.sampling.wavefront import next_window
from avatarctl.sampling.windows import Plan

# -- Noise levels -----------------------------------------------------------------------------------------------------


def test_released_and_textbook_schedules() -> None:
    released, textbook = schedule(50), schedule(50, kind="textbook")
    assert released.steps == textbook.steps == 50
    for levels, last in ((released, 0.0244), (textbook, 0.005)):
        assert levels.sigmas.shape == (51,)
        assert levels.sigmas[0] == 1
        assert float(levels.sigmas[-2]) == pytest.approx(last, abs=1e-4)
        assert levels.sigmas[-1] == 0
        assert (levels.sigmas.diff() < 0).all()
        assert torch.allclose(levels.timesteps, 1000 * levels.sigmas[:-1])


def test_textbook_schedule_is_a_shifted_line() -> None:
    line = torch.linspace(1, 1 / 1000, 7, dtype=torch.float64)
    expected = 3 * line / (1 + 2 * line)
    assert torch.allclose(schedule(7, 3.0, "textbook").sigmas[:-1].double(), expected, atol=1e-6)


def test_uniform_schedule_is_shifted_steps_of_equal_length_down_to_nothing() -> None:
    u = torch.linspace(1, 0, 9, dtype=torch.float64)
    levels = schedule(8, 5.0, "uniform")
    assert torch.allclose(levels.sigmas.double(), 5 * u / (1 + 4 * u), atol=1e-6)
    assert levels.steps == 8 and torch.allclose(levels.timesteps, 1000 * levels.sigmas[:-1])


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("ab2", 2)])
def test_the_error_falls_with_the_order_of_the_solver(solver: str, order: int) -> None:
    """x' = x - sin(5 s) from s = 1 to 0, in float64: twice the steps, 2 ** order of the error less."""

    def error(steps: int) -> float:
        sigmas = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        levels = Schedule(sigmas, sigmas[:-1] * 1000)
        x, before = torch.ones(1, dtype=torch.float64), None
        for i in range(steps):
            velocity = exact_velocity(x, sigmas[i])
            x = levels.step(x, velocity, i, before if solver == "ab2" else None).double()
            before = velocity
        return abs(float(x - exact_at_zero))

    def exact_velocity(x: Tensor, sigma: Tensor) -> Tensor:
        return x - torch.sin(5 * sigma)

    # The solution: a particular one, (sin(5 s) + 5 cos(5 s)) / 26, and a multiple of exp(s).
    def particular(sigma: float) -> float:
        return (math.sin(5 * sigma) + 5 * math.cos(5 * sigma)) / 26

    exact_at_zero = particular(0) + (1 - particular(1)) * math.exp(-1)
    assert error(32) / error(64) == pytest.approx(2**order, rel=0.2)


def test_ab2_follows_the_velocity_no_further_than_its_whole_difference_ahead() -> None:
    sigmas = torch.tensor([1.0, 0.9, 0.75, 0.0])  # steps of 0.1, 0.15 and 0.75
    levels = Schedule(sigmas, sigmas[:-1] * 1000)
    x, v, before = torch.tensor([1.0]), torch.tensor([0.5]), torch.tensor([0.25])
    assert float(levels.step(x, v, 1, before)) == pytest.approx(1 - 0.15 * (0.5 + 0.75 * 0.25))
    assert float(levels.step(x, v, 2, before)) == pytest.approx(1 - 0.75 * (0.5 + 1 * 0.25))  # not 2.5 times 0.25


@pytest.mark.parametrize("kind", ["released", "textbook"])
def test_step_is_that_of_the_scheduler(kind: str) -> None:
    levels = schedule(6, 5.0, kind)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=5.0)
    if kind == "released":
        scheduler.set_timesteps(6)
    else:
        scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / 1000, 6).numpy())
    ours = theirs = torch.randn(1, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for i, timestep in enumerate(scheduler.timesteps):
        velocity = torch.sin(ours * 3 + i)
        ours = levels.step(ours, velocity, i)
        theirs = scheduler.step(velocity, timestep, theirs).prev_sample
        assert torch.equal(ours, theirs)


def test_step_is_taken_in_float32() -> None:
    levels = schedule(4)
    latents = torch.full((1, 1, 1, 1, 1), 300.0)
    velocity = torch.full_like(latents, 0.125).bfloat16()
    assert levels.step(latents, velocity, 0).dtype == torch.float32
    assert float(levels.step(latents, velocity, 0)) == pytest.approx(
        300 + 0.125 * float(levels.sigmas[1] - levels.sigmas[0])
    )


# -- A state saved and restored ---------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(
    plans(),
    st.integers(1, 8),
    st.floats(0, 1),
    st.sampled_from(["wavefront", "steps", "any"]),
    st.integers(0, 999),
    st.sampled_from(["euler", "ab2"]),
)
@example(Plan(1501, Fraction(25), 100, 21, 5), 5, 0.5, "any", 0, "euler")
@example(Plan(1501, Fraction(25), 100, 21, 5), 5, 0.5, "any", 0, "ab2")
@example(Plan(1501, Fraction(25), 60, 21, 18), 4, 0.99, "wavefront", 0, "ab2")
def test_any_saved_state_goes_on_to_the_same_bits(
    plan: Plan, steps: int, part: float, kind: str, seed: int, solver: str
) -> None:
    assume(plan.count * steps <= 800)
    chance, sampler, finals = random.Random(seed), make(plan, steps, solver=solver), []
    for _ in range(int(part * plan.count * steps)):
        ready = sampler.progress.anti_diagonal()
        finals += advance(sampler, chance.choice(ready) if kind == "any" else next_window(sampler.progress, kind))
    saved = dict(sampler.windows), sampler.progress.first
    copies = {index: window.latents.clone() for index, window in sampler.windows.items()}

    expected = step_by_step(plan, steps, solver=solver)
    for order in ("wavefront", "steps"):
        resumed = make(plan, steps, solver=solver, windows=saved[0], first=saved[1])
        assert resumed.progress.steps_done() == sampler.progress.steps_done()
        rest = [final for given in resumed.run(order) for final in given]
        assert torch.equal(join(finals + rest), expected)
    # What was saved is never written to again: a checkpoint may be taken while the sampler goes on.
    assert all(torch.equal(saved[0][index].latents, copy) for index, copy in copies.items())


def test_finals_do_not_share_memory_that_changes() -> None:
    plan = Plan(1501, Fraction(25), 60, 21, 5)
    kept, copies = [], []
    for finals in make(plan, 4).run():
        kept += [final.latents for final in finals]
        copies += [final.latents.clone() for final in finals]
    assert all(torch.equal(latents, copy) for latents, copy in zip(kept, copies))


# -- A state that was lost --------------------------------------------------------------------------------------------

LOST = Plan(1501, Fraction(25), 150, 9, 3)


@settings(deadline=None, max_examples=25)
@given(plans(), st.integers(1, 6), st.floats(0, 0.6), st.sampled_from(["euler", "ab2"]))
@example(LOST, 4, 0.3, "ab2")
@example(Plan(1501, Fraction(25), 90, 12, 9), 3, 0.3, "euler")
def test_beginning_again_earlier_gives_the_same_bits_further_right(
    plan: Plan, steps: int, part: float, solver: str
) -> None:
    """What is missing to the left of the new beginning moves right by ``reach`` windows a step, from the second step on."""
    assume(plan.count * steps <= 600)
    origin = int(part * plan.count)
    reach = max(len(plan.right_of(index)) for index in range(plan.count))
    good = min(origin + reach * (steps - 1), plan.count)
    finals = [final for given in make(plan, steps, first=origin, solver=solver).run() for final in given]
    assert [final.window for final in finals] == list(range(origin, plan.count))
    expected = step_by_step(plan, steps, solver=solver)
    for final in finals[good - origin :]:
        assert torch.equal(final.latents, expected[:, :, final.start : final.start + final.latents.shape[2]])


def test_beginning_again_touches_what_is_close() -> None:
    finals = [final for given in make(LOST, 4, first=6).run() for final in given]
    near = finals[0]
    expected = step_by_step(LOST, 4)[:, :, near.start : near.start + near.latents.shape[2]]
    assert not torch.equal(near.latents, expected)


def test_state_saved_after_beginning_again_goes_on() -> None:
    """The first windows after a new beginning have no left neighbour, also when they come from a saved state."""
    expected = run(make(LOST, 4, first=6), "wavefront")
    for count in (1, 3, 9):
        sampler = make(LOST, 4, first=6)
        steps = sampler.run()
        for _ in range(count):
            next(steps)
        resumed = make(LOST, 4, windows=sampler.windows, first=sampler.progress.first)
        assert torch.equal(run(resumed, "wavefront"), expected)


def test_fresh_window_starts_from_noise() -> None:
    sampler = make(LOST, 3)
    window = LOST.get(4)
    assert torch.equal(sampler.read(window), sampler.noise(window.start, window.stop))


def test_frames_are_read_from_the_last_window_that_holds_them() -> None:
    sampler = make(LOST, 3)
    for index in (3, 4):
        window = LOST.get(index)
        sampler.windows[index] = InFlight(1, torch.full((1, 1, window.frames, 1, 1), float(index)))
    assert sampler.read(LOST.get(3)).flatten().tolist() == [3.0] * 6 + [4.0] * 3
    assert sampler.windows[3].latents.flatten().tolist() == [3.0] * 9
