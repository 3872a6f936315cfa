"""Blend two windows' latents where they overlap: the later window's share grows from 0 to 1."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from avatarctl.errors import UsageError

Blend = Literal["linear", "log"]


def edge_weights(overlap: int, kind: Blend = "linear") -> Tensor:
    """Return the weights (overlap,) of the later window: ``j / (V - 1)``, or ``log1p((e - 1) j / (V - 1))`` (both 0 … 1).

    The first weight is 0, so that an overlap of one frame would throw the later window's frame away.
    """
    if overlap < 2:
        raise UsageError(f"overlap: got {overlap}, expected at least 2 latent frames")
    if kind == "linear":
        return torch.tensor([j / (overlap - 1) for j in range(overlap)])
    weights = torch.log1p(torch.linspace(0, 1, overlap) * (torch.tensor(math.e) - 1))
    return (weights - weights.min()) / (weights.max() - weights.min())


def blend_left(latents_BCTHW: Tensor, previous_BCVHW: Tensor, weights: Tensor) -> Tensor:
    """Return the later window's latents with their first frames blended with what the earlier windows hold there."""
    overlap = previous_BCVHW.shape[2]
    share = weights.to(latents_BCTHW).view(1, 1, -1, 1, 1)
    edge = latents_BCTHW[:, :, :overlap] * share + previous_BCVHW.to(latents_BCTHW) * (1 - share)
    return torch.cat([edge, latents_BCTHW[:, :, overlap:]], dim=2)
