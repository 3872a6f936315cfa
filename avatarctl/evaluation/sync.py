"""Measure how well a mouth follows its voice, frame by frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOST_LAG = 8  # frames, about a third of a second: what is later than this is not the same syllable

Curve = NDArray[np.float64]


@dataclass(frozen=True)
class Sync:
    """How a measured curve follows an expected one.

    ``correlation``: Pearson's, -1 … 1, at lag 0. ``lag``: frames by which the measured curve comes late (negative: early)
    where they agree best. ``amplitude``: deviation of the measured over that of the expected curve.
    """

    correlation: float
    lag: int
    amplitude: float


def sync(measured_T: Curve, expected_T: Curve) -> Sync:
    """Compare two curves of the same length; raises ``ValueError`` when they are not, are shorter than three lags, or
    nothing was expected to move."""
    if measured_T.shape != expected_T.shape or len(measured_T) < 3 * MOST_LAG:
        raise ValueError(
            f"got curves of {len(measured_T)} and {len(expected_T)} frames, expected as many, and {3 * MOST_LAG}"
        )
    deviation = float(expected_T.std())
    if deviation <= 1e-9 * float(np.abs(expected_T).max()):
        raise ValueError("got an expected curve that never moves, expected a voice that does")
    return Sync(
        correlation=correlation(measured_T, expected_T),
        lag=best_lag(measured_T, expected_T),
        amplitude=float(measured_T.std()) / deviation,
    )


def correlation(a_T: Curve, b_T: Curve) -> float:
    """Return Pearson's correlation; 0 when one of the curves never moves, since it tells nothing of the other."""
    a, b = a_T - a_T.mean(), b_T - b_T.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    # Equal numbers leave a mean's rounding behind, not exactly zero.
    smallest = 1e-12 * len(a_T) * max(float(np.abs(a_T).max() * np.abs(b_T).max()), 1e-300)
    return float(a @ b) / norm if norm > smallest else 0.0


def best_lag(measured_T: Curve, expected_T: Curve, most: int = MOST_LAG) -> int:
    """Return the lag of the highest correlation within ``most`` frames; of equal ones the smallest."""
    found = {}
    for lag in range(-most, most + 1):
        late, early = max(lag, 0), max(-lag, 0)
        stop = len(measured_T)
        found[lag] = correlation(measured_T[late : stop - early], expected_T[early : stop - late])
    return max(found, key=lambda lag: (round(found[lag], 9), -abs(lag)))


def shuffled(measured: Sequence[Curve], expected: Sequence[Curve], after: int = 0) -> float:
    """Return the mean correlation of every measured curve with the expected curves of all the others: near 0 for real sync.

    ``after``: frames at the beginning that don't count. Recordings begin alike, with a mouth that opens.
    """
    if len(measured) != len(expected) or len(measured) < 2:
        raise ValueError(f"got {len(measured)} and {len(expected)} curves, expected as many, two at least")
    wrong = []
    for i, own in enumerate(measured):
        for j, other in enumerate(expected):
            if i != j:
                length = min(len(own), len(other))
                wrong.append(correlation(own[after:length], other[after:length]))
    return float(np.mean(wrong))
