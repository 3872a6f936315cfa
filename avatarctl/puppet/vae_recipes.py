"""How the embedded avatar's VAE is trained: which stretches and crops of clips in turn, and what counts more in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avatarctl.networks.dims import VaeDims
from avatarctl.puppet.pictures import Pictures, to_tensor
from avatarctl.puppet.vae import DIMS
from avatarctl.puppet.world.clips import EYE_REGIONS, IRIS_REGIONS, MOUTH_REGION, region_mask
from avatarctl.puppet.world.portrait import in_picture

AIMED = 0.5  # share of crops that show a region that counts more, about in their middle
AIM_SPREAD = 0.1


@dataclass(frozen=True)
class Batch:
    """Stretches of ``frames`` pictures of ``clips`` clips, each a square of ``crop`` pixels, or whole (None)."""

    frames: int
    clips: int
    crop: int | None = None


@dataclass(frozen=True)
class Stage:
    """Batches that are taken in turn until a share of the steps is done; beyond 1 the learning rate fades out."""

    until: float
    batches: tuple[Batch, ...]


@dataclass(frozen=True)
class Recipe:
    """Everything that a training of the VAE depends on, besides clips, seed and number of steps."""

    name: str
    dims: VaeDims
    steps: int
    stages: tuple[Stage, ...]
    muon_rate: float
    adam_rate: float
    first_weight: float  # of a stretch's first picture, which the causal layers see least of
    regions: Callable[[int], NDArray[np.bool_]]  # size of a picture -> where pixels count more
    aims: tuple[tuple[float, float], ...] = ()  # what crops are aimed at, in units of the picture's side
    region_weight: float = 4.0
    iris_weight: float = 24.0  # small, and of one colour each: the first that a decoder bleaches
    kl_weight: float = 5e-5

    def total(self, steps: int) -> int:
        """Return the steps with those in which the rate fades out."""
        return round(self.stages[-1].until * steps)

    def batch(self, step: int, steps: int) -> Batch:
        """Return what a step is made of."""
        stage = next(stage for stage in self.stages if step < round(stage.until * steps))
        return stage.batches[step % len(stage.batches)]

    def weights(self, size: int) -> NDArray[np.float32]:
        """Return how much each pixel counts (size, size)."""
        counts = np.where(self.regions(size), self.region_weight, 1.0)
        return np.where(region_mask(size, IRIS_REGIONS) > 0, self.iris_weight, counts).astype(np.float32)


def _mouth_and_eyes(size: int) -> NDArray[np.bool_]:
    return region_mask(size, [MOUTH_REGION, *EYE_REGIONS]) > 0


# Short clips teach pictures fast, but the causal layers see some forty pictures back: trained on them alone, pictures decay
# from the twentieth on, by five decibels. So long stretches are cropped in space. Whole pictures in between teach the colour
# of large areas, single ones the path that a first picture takes. Never one clip alone: torch has a slow path for that.
_SHORT, _WHOLE, _LONG, _FIRST = Batch(9, 4, 64), Batch(5, 2), Batch(33, 2, 56), Batch(1, 4)
RECIPE = Recipe(
    name="128 pixels",
    dims=DIMS,
    steps=7000,
    stages=(
        Stage(1 / 6, (_SHORT, _WHOLE, _SHORT, _SHORT, _FIRST, _SHORT, _WHOLE, _SHORT)),
        Stage(1.0, (_SHORT, _LONG, _WHOLE, _LONG, _SHORT, _LONG, _FIRST, _LONG)),
        Stage(1.06, (_LONG, Batch(33, 2, 96), _FIRST, Batch(81, 2, 48))),
    ),
    muon_rate=4e-3,
    adam_rate=4e-3 / 3,
    first_weight=8.0,
    regions=_mouth_and_eyes,
    aims=(in_picture(*MOUTH_REGION[:2]), *(in_picture(*eye[:2]) for eye in EYE_REGIONS)),
)


def batch_of(clips: Pictures, batch: Batch, recipe: Recipe, chance: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return stretches of clips by chance, (B, 3, T, H, W) in [-1, 1], and how much their pixels count, (B, 1, T, H, W)."""
    frames = min(batch.frames, clips.frames)
    pictures, weights = [], []
    for _ in range(batch.clips):
        clip, start = chance.integers(len(clips)), chance.integers(clips.frames - frames + 1)
        part = clips.stretch(int(clip), int(start), frames)
        counts = recipe.weights(part.shape[1])
        if batch.crop is not None and batch.crop < part.shape[1]:
            rows, columns = crop_of(part.shape[1], batch.crop, recipe.aims, chance)
            part, counts = part[:, rows, columns], counts[rows, columns]
        pictures.append(part)
        weights.append(counts)
    counted = torch.from_numpy(np.stack(weights))[:, None, None].repeat(1, 1, frames, 1, 1)
    counted[:, :, 0] *= recipe.first_weight
    return to_tensor(np.stack(pictures)), counted / counted.mean()


def crop_of(
    size: int, crop: int, aims: tuple[tuple[float, float], ...], chance: np.random.Generator
) -> tuple[slice, slice]:
    """Return rows and columns of a square: anywhere, or about one of the aims. Even numbers, as the VAE sees 2x2 patches."""
    most = size - crop
    if aims and chance.random() < AIMED:
        x, y = aims[chance.integers(len(aims))] + chance.uniform(-AIM_SPREAD, AIM_SPREAD, 2)
        left, top = (int(np.clip(place * size - crop / 2, 0, most)) for place in (x, y))
    else:
        left, top = (int(start) for start in chance.integers(0, most + 1, 2))
    left, top = left // 2 * 2, top // 2 * 2
    return slice(top, top + crop), slice(left, left + crop)
