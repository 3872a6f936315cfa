"""Tests with the shipped VAE in bfloat16, as GPUs compute it: its pictures are those of float32 but for rounding."""

from __future__ import annotations

import copy
import math

import torch

from avatarctl.networks.checkpoints import load_vae
from avatarctl.networks.images import load_image
from avatarctl.networks.vae import decode, encode
from avatarctl.paths import embedded_avatar

LEAST_DB = 45.0


def psnr_db(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the peak signal-to-noise ratio of pictures in [-1, 1]."""
    return 10 * math.log10(4 / (one.float() - other.float()).square().mean().item())


@torch.no_grad()
def test_bfloat16_is_within_45_db_of_float32() -> None:
    home = embedded_avatar()
    wide = load_vae(home / "weights" / "vae.safetensors")
    narrow = copy.deepcopy(wide).to(torch.bfloat16)
    picture, _ = load_image(home / "samples" / "picture.png", 64, 64, "cover")
    # A picture that moves: each of nine is shifted by a pixel.
    pixels = torch.stack([picture.roll(shift, 2) for shift in range(9)], dim=1)[None]
    latents = encode(wide, pixels)
    expected = decode(wide, latents)
    decoded = psnr_db(decode(narrow, latents), expected)
    both = psnr_db(decode(narrow, encode(narrow, pixels)), expected)

    assert decoded >= LEAST_DB, decoded
    assert both >= LEAST_DB, both
