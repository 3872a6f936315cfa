"""Measure how far pictures of a video are from its reference, and how far they drift."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pictures = NDArray[np.uint8]


def colour_distance(frames_THWC: Pictures, reference_HWC: Pictures, mask_HW: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the mean absolute difference (T,) from a reference in grey levels (0 … 255) where ``mask`` is true."""
    difference = np.abs(frames_THWC.astype(np.float64) - reference_HWC.astype(np.float64))
    return difference[:, mask_HW].mean((1, 2))


def nearest(frames_THWC: Pictures, references_NHWC: Pictures, mask_HW: NDArray[np.bool_]) -> int:
    """Return which of several references a video's mean picture is nearest to."""
    mean = frames_THWC.astype(np.float64).mean(0)
    return int(
        np.argmin([np.abs(mean - reference)[mask_HW].mean() for reference in references_NHWC.astype(np.float64)])
    )


def slope_interval(
    values_T: NDArray[np.float64], per_second: int, block_s: int = 10, draws: int = 2000
) -> tuple[float, float]:
    """Return the 95 % interval of how much a curve rises per minute, by a bootstrap over blocks of seconds.

    Deviations from the straight line are drawn in blocks, since neighbouring seconds are alike. An interval that holds 0
    tells of no drift. The same curve always has the same interval. Raises ``ValueError`` for less than six blocks.
    """
    seconds = values_T[: len(values_T) // per_second * per_second].reshape(-1, per_second).mean(1)
    blocks = len(seconds) // block_s
    if blocks < 6:
        raise ValueError(f"got {len(seconds)} s, expected {6 * block_s} at least")
    seconds = seconds[: blocks * block_s]
    minutes = np.arange(len(seconds)) / 60
    slope, start = np.polyfit(minutes, seconds, 1)
    away = (seconds - slope * minutes - start).reshape(blocks, block_s)
    chosen = np.random.default_rng(0).integers(blocks, size=(draws, blocks))
    noise = away[chosen].reshape(draws, -1)
    centred = minutes - minutes.mean()
    slopes = slope + noise @ centred / (centred @ centred)
    low, high = np.quantile(slopes, [0.025, 0.975])
    return float(low), float(high)
