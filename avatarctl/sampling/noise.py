"""Noise of a latent frame from a seed and the frame's number alone, whatever the length of the video."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def latent_noise(seed: int, frame: int, shape: tuple[int, int, int]) -> Tensor:
    """Return standard normal noise (C, H, W) in float32 on the CPU, from a generator seeded by seed and frame together."""
    digest = hashlib.sha256(f"{seed}:{frame}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.randn(shape, generator=generator)


def window_noise(seed: int, start: int, stop: int, shape: tuple[int, int, int]) -> Tensor:
    """Return the noise (1, C, stop - start, H, W) of latent frames ``start`` … ``stop - 1``."""
    return torch.stack([latent_noise(seed, frame, shape) for frame in range(start, stop)], dim=1)[None]
