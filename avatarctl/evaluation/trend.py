"""Fit how much a curve rises per minute, with an interval by a bootstrap; a cut or another person begins a new stretch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Curve = NDArray[np.float64]

BLOCK_S = 10  # seconds that are drawn together, since neighbours are alike; fewer in a short video
LEAST_BLOCKS, LEAST_BLOCK_S = 6, 2
LEAST_S = LEAST_BLOCKS * LEAST_BLOCK_S
DRAWS, PARTS = 2000, 40  # a part of the draws at a time: all of them for an hour would fill 100 MB
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Trend:
    """``slope`` per minute, and the ends of its interval."""

    slope: float
    low: float
    high: float

    @property
    def certain(self) -> bool:
        """Return whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0


def by_second(values_T: Curve, fps: float) -> Curve:
    """Return the mean of each second; not a number where there is none."""
    seconds = int(len(values_T) / fps)
    places = np.minimum((np.arange(len(values_T)) / fps).astype(int), max(seconds - 1, 0))
    there = np.isfinite(values_T)
    sums = np.bincount(places[there], values_T[there], minlength=max(seconds, 1))
    counts = np.bincount(places[there], minlength=max(seconds, 1))
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def trend(seconds_S: Curve, stretch_S: NDArray[np.int64] | None = None, confidence: float = CONFIDENCE) -> Trend | None:
    """Return how much a curve of one value per second rises per minute; None for less than ``LEAST_S`` values.

    ``stretch``: seconds with different numbers have means of their own, only what happens within a stretch counts. Away from
    the line, blocks of seconds are drawn; few blocks give a wide interval (as Student's does). Deterministic.
    """
    there = np.isfinite(seconds_S)
    groups = np.zeros(len(seconds_S), np.int64) if stretch_S is None else stretch_S
    for group in np.unique(groups):  # a stretch of a few seconds tells nothing
        if (there & (groups == group)).sum() < LEAST_S:
            there = there & (groups != group)
    count = int(there.sum())
    if count < LEAST_S:
        return None
    values, groups, minutes = seconds_S[there], groups[there], np.flatnonzero(there) / 60
    centred, flat = _within(minutes, groups), _within(values, groups)
    spread = float(centred @ centred)
    slope = float(centred @ flat) / spread
    away = flat - slope * centred
    block_s = max(min(BLOCK_S, count // LEAST_BLOCKS), LEAST_BLOCK_S)
    blocks = count // block_s
    chance = np.random.default_rng(0)
    # Blocks that begin anywhere, round the end: every second is drawn as often.
    starts = chance.integers(count, size=(DRAWS, -(-count // block_s)))
    noise = np.concatenate([_drawn(away, part, block_s) @ centred for part in np.array_split(starts, PARTS)]) / spread
    wider = _student(blocks - 2, confidence) * float(np.sqrt(blocks / (blocks - 2)))
    low, high = np.quantile(noise, [(1 - confidence) / 2, (1 + confidence) / 2]) * wider
    return Trend(slope, slope + float(low), slope + float(high))


def _drawn(away_S: Curve, starts_NB: NDArray[np.int64], block_s: int) -> NDArray[np.float64]:
    """Return the seconds (N, S) of blocks that begin at ``starts``, round the end."""
    count = len(away_S)
    places = (starts_NB[..., None] + np.arange(block_s)).reshape(len(starts_NB), -1)[:, :count] % count
    return away_S[places]


def _within(values_S: Curve, groups_S: NDArray[np.int64]) -> Curve:
    """Return values less the mean of their stretch."""
    found = values_S.copy()
    for group in np.unique(groups_S):
        found[groups_S == group] -= values_S[groups_S == group].mean()
    return found


def _student(freedom: int, confidence: float) -> float:
    """Return by what Student's quantile is larger than the normal one (Cornish and Fisher's series)."""
    z = {0.95: 1.959964, 0.983: 2.386}[confidence]
    return 1 + (z**2 + 1) / (4 * freedom) + (5 * z**4 + 16 * z**2 + 3) / (96 * freedom**2)
