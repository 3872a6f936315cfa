"""Measure a video with the SyncNet of the user (LSE-C, LSE-D): a second pass over its pictures, in flat memory.

Released pipeline: distances of each picture's five to the sound beside and up to 15 pictures away, averaged over the video;
LSE-D is the least of them, LSE-C the median less the least. Faces are found by our networks instead of S3FD.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from avatarctl.audio.mfcc import mfcc
from avatarctl.audio.track import SAMPLE_RATE_HZ
from avatarctl.data.clips import Picture, stream
from avatarctl.evaluation.numbers import rounded
from avatarctl.evaluation.source import Source
from avatarctl.evaluation.watch import Seat
from avatarctl.faces.regions import CHIN, EARS, HAIR
from avatarctl.networks.syncnet import PICTURES, SIDE, STEPS, STEPS_PER_PICTURE, SyncNet

FPS = 25
SHIFTS = 15  # pictures by which the sound is moved at most, to both sides
AT_ONCE = 20  # pictures
LEAST_SEEN = 0.5  # share of the pictures with the face
BESIDE = 0.4  # of the face's half side: what the released crop shows around it
SMOOTHED = 13  # pictures over which the place of the face is a median
GREY = (110, 110, 110)  # beyond the picture's edge
NAMES = ("lse_c", "lse_d", "lag_s", "shifted_lse_c", "shifted_lse_d")

Curve = NDArray[np.float64]


@dataclass(frozen=True)
class Agreement:
    """How mouths and sounds agree: confidence (LSE-C), least distance (LSE-D), by how much lips come after the sound."""

    confidence: float
    distance: float
    lag_s: float


class Distances:
    """Sums of the distances between mouths and sounds, by how many pictures the sound is moved."""

    def __init__(self) -> None:
        self._sums, self._count = torch.zeros(2 * SHIFTS + 1, dtype=torch.float64), 0

    def add(self, mouths_BF: Tensor, sounds_LF: Tensor) -> None:
        """Add some mouths; sounds begin ``SHIFTS`` pictures before the first of them and end as much after the last."""
        for place, mouth in enumerate(mouths_BF):
            around = sounds_LF[place : place + len(self._sums)]
            self._sums += torch.nn.functional.pairwise_distance(mouth[None], around).double()
            self._count += 1

    def agreement(self) -> Agreement:
        """Return what the average over all mouths says."""
        mean = self._sums / self._count
        least = int(mean.argmin())
        return Agreement(float(mean.median() - mean[least]), float(mean[least]), (SHIFTS - least) / FPS)


def score_syncnet(source: Source, seat: Seat, network: SyncNet, device: str) -> tuple[dict[str, Any], list[str]]:
    """Return the group ``syncnet`` of a row, and why it is empty if it is.

    ``shifted``: with the voice of half the video away, which belongs to other lips: the zero of both.
    """
    row: dict[str, Any] = dict.fromkeys(NAMES)
    boxes = _boxes(seat, source.fps)
    sound = source.waveform
    if sound is None:
        return row, ["no sound: SyncNet wasn't asked"]
    if boxes is None:
        return row, [f"the face is seen in less than {LEAST_SEEN:.0%} of the pictures: SyncNet wasn't asked"]
    count = min(len(boxes), len(sound) * FPS // SAMPLE_RATE_HZ) - PICTURES
    if count < 2 * SHIFTS:
        return row, [
            f"{len(boxes) / FPS:.1f} s are too few for SyncNet, {(2 * SHIFTS + PICTURES) / FPS:g} s are enough"
        ]
    own, other = Distances(), Distances()
    with torch.inference_mode():
        for first, pictures_BCTHW in _batches(source, boxes, count):
            mouths = network.of_mouths(pictures_BCTHW.to(device)).cpu()
            own.add(mouths, _sounds(network, sound, first, len(mouths), count, 0, device))
            other.add(mouths, _sounds(network, sound, first, len(mouths), count, count // 2, device))
    true, shifted = own.agreement(), other.agreement()
    row.update(lse_c=rounded(true.confidence), lse_d=rounded(true.distance), lag_s=rounded(true.lag_s))
    row.update(shifted_lse_c=rounded(shifted.confidence), shifted_lse_d=rounded(shifted.distance))
    return row, []


def _sounds(
    network: SyncNet, waveform_T: NDArray[np.float32], first: int, length: int, count: int, moved: int, device: str
) -> Tensor:
    """Return (length + 2 SHIFTS, 1024): the sound beside pictures, and zeros before the first and after the last.

    ``moved``: the sound of so many pictures later, the beginning after the end.
    """
    places = range(first - SHIFTS, first + length + SHIFTS)
    inside = [place for place in places if 0 <= place < count]
    parts = []
    for place in inside:
        at = (place + moved) % count * STEPS_PER_PICTURE
        parts.append(mfcc(waveform_T, at, at + STEPS))
    found = network.of_sounds(torch.from_numpy(np.stack(parts))[:, None].to(device)).cpu()
    before = inside[0] - places[0]
    return torch.nn.functional.pad(found, (0, 0, before, len(places) - before - len(inside)))


def _batches(source: Source, boxes_T3: Curve, count: int) -> Iterator[tuple[int, Tensor]]:
    """Return the number of the first and (B, 3, 5, 224, 224) of five pictures each, blue green red, 0 … 255."""
    chips: list[NDArray[np.uint8]] = []
    first = 0
    with closing(stream(source.film, source.size, Fraction(FPS))) as pictures:
        for number, picture in zip(range(count + PICTURES - 1), pictures, strict=False):
            chips.append(_chip(picture, boxes_T3[number]))
            here = len(chips) - PICTURES + 1
            if here == AT_ONCE or (here > 0 and first + here == count):
                shown_TCHW = torch.from_numpy(np.stack(chips)[..., ::-1].copy()).permute(0, 3, 1, 2).float()
                yield first, shown_TCHW.unfold(0, PICTURES, 1).permute(0, 1, 4, 2, 3)
                first += here
                chips = chips[here:]


def _chip(picture: Picture, box: Curve) -> NDArray[np.uint8]:
    """Return the square that the released pipeline cuts around a face: its middle (x, y) and half its longer side."""
    x, y, half = box
    wide, below = half * (1 + BESIDE), half * (1 + 2 * BESIDE)
    corners = (x - wide, y - half, x + wide, y + below)
    image = Image.fromarray(picture)
    extent, bilinear = Image.Transform.EXTENT, Image.Resampling.BILINEAR
    return np.asarray(image.transform((SIDE, SIDE), extent, corners, bilinear, fillcolor=GREY))


def _boxes(seat: Seat, fps: Fraction) -> Curve | None:
    """Return middle and half side of a face at 25 pictures a second (T, 3), smoothed; None where it is seldom seen."""
    left, top, right, bottom = (seat.curve(name) for name in ("left", "top", "right", "bottom"))
    there = np.isfinite(left)
    if there.mean() < LEAST_SEEN:
        return None
    width, height = (right - left) / (1 + 2 * EARS), (bottom - top) / (1 + HAIR + CHIN)
    each = np.stack([(left + right) / 2, top + (HAIR + 0.5) * height, np.maximum(width, height) / 2], axis=1)
    times = (np.arange(int(len(left) * FPS / fps)) + 0.5) * float(fps) / FPS - 0.5
    known = np.flatnonzero(there)
    found = np.stack([np.interp(times, known, column[known]) for column in each.T], axis=1)
    padded = np.pad(found, ((SMOOTHED // 2, SMOOTHED // 2), (0, 0)), mode="edge")
    return np.asarray(np.median(np.lib.stride_tricks.sliding_window_view(padded, SMOOTHED, axis=0), axis=-1))
