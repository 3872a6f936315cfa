"""Tests with overlaps: edge weights grow from 0 to 1 as described and nothing but the edge is touched."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from avatarctl.errors import UsageError
from avatarctl.sampling.blend import blend_left, edge_weights

overlaps = st.integers(2, 127)
kinds = st.sampled_from(["linear", "log"])


@given(overlaps, kinds)
def test_weights_grow_from_0_to_1(overlap: int, kind: str) -> None:
    weights = edge_weights(overlap, kind)
    assert weights.shape == (overlap,)
    assert weights[0] == 0
    assert weights[-1] == 1
    assert (weights.diff() > 0).all()


@given(overlaps)
def test_weights_are_those_of_the_formula(overlap: int) -> None:
    places = [j / (overlap - 1) for j in range(overlap)]
    assert edge_weights(overlap, "linear").tolist() == pytest.approx(places, abs=1e-7)
    assert edge_weights(overlap, "log").tolist() == pytest.approx(
        [math.log1p((math.e - 1) * x) for x in places], abs=1e-6
    )


def test_log_weights_lead_linear_ones() -> None:
    assert (edge_weights(9, "log")[1:-1] > edge_weights(9, "linear")[1:-1]).all()


@pytest.mark.parametrize("overlap", [1, 0])
@pytest.mark.parametrize("kind", ["linear", "log"])
def test_overlap_that_would_throw_a_frame_away(overlap: int, kind: str) -> None:
    with pytest.raises(UsageError, match=f"got {overlap}, expected at least 2"):
        edge_weights(overlap, kind)


@pytest.mark.parametrize("overlap", [2, 5, 20, 21])
def test_only_the_edge_is_blended(overlap: int) -> None:
    """20 of 21 is what a last window that was moved left can share, far more than the overlap of the plan."""
    draw = torch.Generator().manual_seed(0)
    new = torch.randn(1, 3, 21, 2, 2, generator=draw)
    previous = torch.randn(1, 3, overlap, 2, 2, generator=draw)
    before = new.clone(), previous.clone()
    weights = edge_weights(overlap)
    out = blend_left(new, previous, weights)
    for j, share in enumerate(weights.tolist()):
        expected = share * new[:, :, j].double() + (1 - share) * previous[:, :, j].double()
        assert torch.allclose(out[:, :, j].double(), expected, atol=1e-6)
    assert torch.equal(out[:, :, 0], previous[:, :, 0])
    assert torch.equal(out[:, :, overlap - 1 :], new[:, :, overlap - 1 :])
    assert torch.equal(new, before[0])
    assert torch.equal(previous, before[1])


def test_equal_latents_stay_equal() -> None:
    latents = torch.full((1, 1, 9, 1, 1), 0.75)
    assert torch.allclose(blend_left(latents, latents[:, :, :7], edge_weights(7, "log")), latents, atol=1e-7)
