"""Every random draw of a sample from (seed, step, place in the step): the same on any device and after any resume."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from avatarctl.settings.train import TrainSettings

BRANCHES = ("whole", "face", "lips")


@dataclass(frozen=True)
class Draws:
    """What chance decides for a batch of B samples.

    ``noise`` (B, C, T, H, W); ``sigma`` (B,), the noise level in 0 … 1; ``branch``: which mask weights each error (an index of
    ``BRANCHES``); which samples go without speech states, without audio tokens, with the null text; and for the whole
    batch, whether every token hears the audio of the whole window.
    """

    noise: Tensor
    sigma: Tensor
    branch: Tensor
    no_audio: Tensor
    no_tokens: Tensor
    no_text: Tensor
    clip_audio: bool

    def to(self, device: torch.device) -> Draws:
        """Return the same draws on another device."""
        names = ("noise", "sigma", "branch", "no_audio", "no_tokens", "no_text")
        return Draws(**{name: getattr(self, name).to(device) for name in names}, clip_audio=self.clip_audio)


def seed_of(*names: int | str) -> int:
    """Return a seed that depends on all of these names and on nothing else."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, names)).encode()).digest()[:4], "big")


@lru_cache(maxsize=4)
def noise_levels(shift: float) -> Tensor:
    """Return the 1000 shifted noise levels, from 1 down, of diffusers' flow-matching scheduler."""
    levels: Tensor = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=shift).sigmas[:1000]
    return levels


def draw(
    settings: TrainSettings,
    shape_BCTHW: Sequence[int],
    names: Sequence[Sequence[int | str]],
    bands: Sequence[tuple[int, int]] = (),
) -> Draws:
    """Draw for a batch; ``names``: what each sample's draws are seeded by, such as (seed, step, place).

    ``bands``: of a step whose samples share out the noise levels, each sample's band and the number of them.
    """
    assert len(names) == shape_BCTHW[0]
    rows, noise = [], []
    for name in names:
        generator = torch.Generator().manual_seed(seed_of(*name))
        noise.append(torch.randn(tuple(shape_BCTHW[1:]), generator=generator))
        logit = torch.randn((), generator=generator, dtype=torch.float64)
        # One row of uniform numbers a sample: settings that are off don't move the others' draws.
        rows.append((torch.rand(6, generator=generator, dtype=torch.float64), logit))
    uniform = torch.stack([row for row, _ in rows])
    time = uniform[:, 0]
    if bands:
        place, count = torch.tensor(bands, dtype=torch.float64).T
        time = (place + time) / count
    if settings.time == "logit-normal":
        logit = torch.stack([logit for _, logit in rows])
        if bands:  # the same share of the normal distribution
            logit = torch.special.ndtri(time.clamp(1e-9, 1 - 1e-9))
        time = torch.sigmoid(logit * settings.logit_std + settings.logit_mean)
    levels = noise_levels(settings.shift)
    # Time 1 is pure noise, the first level of the table.
    sigma = levels[((1 - time) * len(levels)).long().clamp(0, len(levels) - 1)]
    bounds = torch.tensor([settings.whole_probability, settings.whole_probability + settings.face_probability])
    return Draws(
        noise=torch.stack(noise),
        sigma=sigma,
        branch=torch.searchsorted(bounds.double(), uniform[:, 1].contiguous(), right=True),
        no_audio=uniform[:, 2] < settings.drop_audio,
        no_tokens=uniform[:, 3] < settings.drop_tokens,
        no_text=uniform[:, 4] < settings.drop_text,
        clip_audio=bool(uniform[0, 5] < settings.clip_audio),
    )
