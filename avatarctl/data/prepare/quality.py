"""Measure what a picture is worth: sharpness and light of a face, and where black bars leave picture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 128  # pixels at which a face's sharpness is measured: about its size in a clip of 512x512
BLUR = 9  # pixels of the blur that a face is compared with
BLACK = 26  # of 255: bars of compressed video aren't quite black
MOST_BAR = 0.3  # share of a side that a bar may take: more is a dark picture


def sharpness(picture_HWC: NDArray[np.uint8], box: NDArray[np.float64]) -> float:
    """Return how much of a face's detail a strong blur takes away, 0 (blurred already) … 1.

    Crété-Roffet et al., "The blur effect", 2007: differences of neighbours before and after a blur of the picture; free of
    contrast. Faces are compared at one size.
    """
    part = _part(picture_HWC, box)
    if part is None:
        return float("nan")
    grey = np.asarray(Image.fromarray(part).convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float64)
    losses = []
    for values in (grey, grey.T):
        before = np.abs(np.diff(values, axis=0))[BLUR:-BLUR]
        after = np.abs(np.diff(_blurred(values), axis=0))[BLUR:-BLUR]
        total = before.sum()
        losses.append(float(np.maximum(before - after, 0).sum() / total) if total > 0 else 0.0)
    return min(losses)


def _blurred(values: NDArray[np.float64]) -> NDArray[np.float64]:
    sums = np.cumsum(np.pad(values, ((BLUR // 2 + 1, BLUR // 2), (0, 0)), mode="edge"), axis=0)
    return (sums[BLUR:] - sums[:-BLUR]) / BLUR


def exposure(picture_HWC: NDArray[np.uint8], box: NDArray[np.float64]) -> float:
    """Return the mean brightness of a face, 0 … 255."""
    part = _part(picture_HWC, box)
    return float("nan") if part is None else float(part[::4, ::4].mean())


def _part(picture_HWC: NDArray[np.uint8], box: NDArray[np.float64]) -> NDArray[np.uint8] | None:
    height, width = picture_HWC.shape[:2]
    x0, y0, x1, y1 = np.clip(np.round(box), 0, [width, height, width, height]).astype(int)
    return picture_HWC[y0:y1, x0:x1] if x1 - x0 >= 8 and y1 - y0 >= 8 else None


class Bars:
    """Watches pictures go by for black bars: rows and columns that stay black."""

    def __init__(self, size: tuple[int, int]) -> None:
        self._columns, self._rows = (np.zeros(side, np.uint8) for side in size)

    def watched(self, pictures: Iterable[NDArray[np.uint8]], fps: Fraction) -> Iterator[NDArray[np.uint8]]:
        """Return the pictures as they are, and look at one a second."""
        step = max(round(fps), 1)
        for number, picture in enumerate(pictures):
            if number % step == 0:
                bright = picture.max(axis=2)
                self._rows = np.maximum(self._rows, np.quantile(bright[:, ::4], 0.99, axis=1).astype(np.uint8))
                self._columns = np.maximum(self._columns, np.quantile(bright[::4], 0.99, axis=0).astype(np.uint8))
            yield picture

    def inside(self) -> tuple[int, int, int, int]:
        """Return (x0, y0, x1, y1) of the picture without bars."""
        (x0, x1), (y0, y1) = (_inside(values) for values in (self._columns, self._rows))
        return x0, y0, x1, y1


def _inside(values: NDArray[np.uint8]) -> tuple[int, int]:
    lit = np.flatnonzero(values > BLACK)
    if not len(lit):
        return 0, len(values)
    first, last = int(lit[0]), int(lit[-1]) + 1
    most = MOST_BAR * len(values)
    return (first if first <= most else 0), (last if len(values) - last <= most else len(values))
