"""Scale the masks of a window's pictures to latent size: how much of each latent lies inside."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from avatarctl.data.clips import Film, film_of
from avatarctl.data.discover import Clip
from avatarctl.errors import InputFileError
from avatarctl.networks.tiling import SPATIAL
from avatarctl.networks.vae import TEMPORAL


def mask_films(clip: Clip, film: Film) -> tuple[list[Film | None], list[str]]:
    """Look at a clip's face and lip masks; give them, or None where there are none, and what the user should know.

    Raises ``InputFileError`` when numbered masks are more or fewer than numbered pictures.
    """
    found: list[Film | None] = []
    notes = []
    for path in (clip.face, clip.lip):
        mask = film_of(path) if path is not None else None
        found.append(mask)
        if mask is None:
            continue
        if mask.files and film.files and len(mask.files) != len(film.files):
            raise InputFileError(
                f"{mask.path}: got {len(mask.files)} masks, expected {len(film.files)}, one for each picture"
            )
        if (mask.width, mask.height) != (film.width, film.height):
            notes.append(
                f"{mask.path}: got masks of {mask.width}x{mask.height}, resized to the pictures' "
                f"{film.width}x{film.height}"
            )
    return found, notes


def at_latent_size(masks: Sequence[NDArray[np.uint8] | None], height: int, width: int) -> Tensor:
    """Return masks (T, H, W) in 0 … 1, float16, of a window's mask pictures (height, width, 3); ones where there are none.

    Trilinear, as the released trainer does it: T = (pictures - 1) / 4 + 1, H = height / 8, W = width / 8.
    """
    shape = ((len(masks) - 1) // TEMPORAL + 1, height // SPATIAL, width // SPATIAL)
    pictures = [mask[..., 0] for mask in masks if mask is not None]
    if len(pictures) < len(masks):
        return torch.ones(shape, dtype=torch.float16)
    values = torch.from_numpy(np.stack(pictures)).float()[None, None] / 255
    return functional.interpolate(values, size=shape, mode="trilinear", align_corners=False)[0, 0].half()
