"""Tests with seeds and latent frames: noise is normal, independent, and a matter of seed and frame alone."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avatarctl.sampling.noise import latent_noise, window_noise

SHAPE = (16, 8, 6)
seeds = st.integers(0, 2**63 - 1)
PINNED = [
    (0, 0, [-2.359665, -0.229565, 0.263341]),
    (0, 1, [0.037255, 1.213733, 0.033683]),
    (42, 1000, [0.091559, 0.363786, 0.799893]),
    (9223372036854775807, 225000, [-0.908268, 1.490592, -0.12698]),
]


@pytest.mark.parametrize(("seed", "frame", "values"), PINNED)
def test_pinned_values(seed: int, frame: int, values: list[float]) -> None:
    """A video can be made again years later only if these never change."""
    noise = latent_noise(seed, frame, (1, 1, 3))
    assert noise.dtype == torch.float32
    assert noise.flatten().tolist() == pytest.approx(values, abs=1e-6)


@settings(deadline=None, max_examples=50)
@given(seeds, st.integers(0, 10**6), st.integers(1, 8), st.integers(0, 8), st.integers(0, 2**31))
def test_noise_depends_on_seed_and_frame_alone(seed: int, start: int, length: int, longer: int, other: int) -> None:
    torch.manual_seed(other)
    short = window_noise(seed, start, start + length, SHAPE)
    torch.randn(other % 7)
    long = window_noise(seed, start, start + length + longer, SHAPE)
    assert short.shape == (1, 16, length, 8, 6)
    assert torch.equal(long[:, :, :length], short)
    for place in range(length):
        assert torch.equal(short[0, :, place], latent_noise(seed, start + place, SHAPE))


def test_global_random_state_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.randn(4)
    torch.manual_seed(5)
    latent_noise(0, 0, SHAPE)
    assert torch.equal(torch.randn(4), expected)


@given(seeds, st.integers(0, 10**6))
def test_other_seed_or_frame_is_other_noise(seed: int, frame: int) -> None:
    noise = latent_noise(seed, frame, SHAPE)
    assert not torch.equal(noise, latent_noise(seed ^ 1, frame, SHAPE))
    assert not torch.equal(noise, latent_noise(seed, frame + 1, SHAPE))


def test_seed_and_frame_do_not_run_together() -> None:
    assert not torch.equal(latent_noise(1, 23, SHAPE), latent_noise(12, 3, SHAPE))
    assert not torch.equal(latent_noise(2, 5, SHAPE), latent_noise(5, 2, SHAPE))


def test_noise_is_standard_normal_and_frames_are_independent() -> None:
    noise = window_noise(3, 0, 200, (4, 16, 16))[0].transpose(0, 1).flatten(1).double()
    count = noise.numel()
    assert abs(noise.mean()) < 4 / math.sqrt(count)
    assert abs(noise.var() - 1) < 4 * math.sqrt(2 / count)
    assert abs((noise**4).mean() - 3) < 4 * math.sqrt(96 / count)
    correlation = torch.corrcoef(noise)
    pairs = correlation[~torch.eye(len(noise), dtype=torch.bool)]
    # 19,900 pairs: five and a half deviations are not reached by chance.
    assert pairs.abs().max() < 5.5 / math.sqrt(noise.shape[1])
    neighbours = correlation.diagonal(1)
    assert abs(neighbours.mean()) < 4 / math.sqrt(noise.shape[1] * len(neighbours))
