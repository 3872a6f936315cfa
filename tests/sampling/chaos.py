"""Test helper: a predictor whose every number depends on all it reads, and two ways to run a sampler with it (from a plan)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction

import torch
from hypothesis import strategies as st
from torch import Tensor

from avatarctl.sampling.blend import edge_weights
from avatarctl.sampling.denoise import Final, Sampler, WindowRequest, schedule
from avatarctl.sampling.windows import Plan, Window, pictures_of


@st.composite
def plans(draw: st.DrawFn, most_frames: int = 400) -> Plan:
    """Draw a plan of a few latent frames or many, with any overlap that a window allows and either tail."""
    window = draw(st.integers(3, 21))
    overlap = draw(st.integers(2, window - 1))
    # One full window at least: shorter sound is padded (tail full) or refused (reference).
    latent_frames = max(draw(st.integers(1, most_frames)), window)
    tail = draw(st.sampled_from(["full", "reference"]))
    return Plan(pictures_of(latent_frames), Fraction(25), latent_frames, window, overlap, tail)


def predict(asked: Sequence[WindowRequest]) -> list[tuple[Tensor, Tensor | None]]:
    return [predict_one(*one) for one in asked]


def predict_one(
    window: Window, i: int, latents: Tensor, guidance_residual: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Mix the window's latents, its number, the step and what it kept: a wrong read anywhere changes every number."""
    flat = latents.double().flatten()
    before = guidance_residual.double() if guidance_residual is not None else torch.tensor(0.3, dtype=torch.float64)
    total = (flat * torch.arange(1, len(flat) + 1).sqrt()).sum() + before
    velocity = torch.sin(7.3 * flat + 3.1 * total + 1.7 * window.index + 0.9 * i).float()
    return velocity.view_as(latents), torch.cos(5 * total).float()


def noise_of(plan: Plan) -> Tensor:
    return torch.randn(1, 1, plan.latent_frames, 1, 1, generator=torch.Generator().manual_seed(plan.latent_frames))


def make(plan: Plan, steps: int, blend: str = "linear", **state: object) -> Sampler:
    noise = noise_of(plan)
    return Sampler(plan, schedule(steps), lambda start, stop: noise[:, :, start:stop], predict, blend, **state)


def join(finals: list[Final]) -> Tensor:
    """Put final latents together; they have to come from left to right without a gap."""
    place = finals[0].start
    for final in finals:
        assert final.start == place
        place += final.latents.shape[2]
    return torch.cat([final.latents for final in finals], dim=2)


def advance(sampler: Sampler, index: int) -> list[Final]:
    """Take one step of one window, as ``Sampler.run`` does."""
    sampler.windows.update(sampler.step([sampler.plan.get(index)]))
    return [sampler._retire(retired) for retired in sampler.progress.advance(index)]


def run(sampler: Sampler, kind: str) -> Tensor:
    return join([final for finals in sampler.run(kind) for final in finals])


def run_shuffled(sampler: Sampler, seed: int) -> Tensor:
    """Run any of the windows that are ready, chosen at random, until all are final."""
    chance, finals = random.Random(seed), []
    while not sampler.progress.finished():
        finals += advance(sampler, chance.choice(sampler.progress.anti_diagonal()))
    return join(finals)


def spans(plan: Plan) -> list[tuple[int, int, int]]:
    """Lay windows out by hand: (start, stop, overlap with the one before)."""
    length, window, overlap = plan.latent_frames, plan.window, plan.overlap
    laid = [(0, min(window, length), 0)]
    while laid[-1][1] < length:
        stop = min(laid[-1][1] - overlap + window, length)
        if plan.tail == "full":
            laid.append((stop - window, stop, laid[-1][1] - (stop - window)))
        else:
            laid.append((laid[-1][1] - overlap, stop, overlap))
    return laid


def blended(new: Tensor, left: Tensor, overlap: int, blend: str) -> Tensor:
    """Blend the left edge of a window with what the window before it made of the same frames."""
    share = edge_weights(overlap, blend).view(1, 1, -1, 1, 1)
    return torch.cat([new[:, :, :overlap] * share + left * (1 - share), new[:, :, overlap:]], dim=2)


def step_by_step(plan: Plan, steps: int, blend: str = "linear", solver: str = "euler") -> Tensor:
    """Sample as published: for each step all windows from left to right, on one tensor of the whole video."""
    levels = schedule(steps)
    latents, velocities, guidance_residual = noise_of(plan), torch.full_like(noise_of(plan), torch.nan), {}
    for i in range(steps):
        after, velocities_after = torch.full_like(latents, torch.nan), torch.full_like(latents, torch.nan)
        step = levels.sigmas[i + 1] - levels.sigmas[i]
        for index, (start, stop, overlap) in enumerate(spans(plan)):
            before = latents[:, :, start:stop].clone()
            velocity, guidance_residual[index] = predict_one(plan.get(index), i, before, guidance_residual.get(index))
            along = velocity
            if solver == "ab2" and i:
                ahead = torch.clamp(step / (2 * (levels.sigmas[i] - levels.sigmas[i - 1])), max=1)
                along = velocity + ahead * (velocity - velocities[:, :, start:stop])
            new = before + step * along
            if i and index:
                new = blended(new, after[:, :, start : start + overlap], overlap, blend)
                velocity = blended(velocity, velocities_after[:, :, start : start + overlap], overlap, blend)
            velocities_after[:, :, start:stop] = velocity
            after[:, :, start:stop] = new
        latents, velocities = after, velocities_after
    return latents
