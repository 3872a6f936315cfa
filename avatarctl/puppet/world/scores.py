"""How well a mouth follows speech, from curves alone: closures found, openings for every vowel, how late it begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Curve = NDArray[np.float64]
OPEN, SHUT, WELL_SHUT = 0.3, 0.15, 0.10
AROUND = 5  # pictures before and after a closure in which the mouth is open
PROMINENCE = 0.1  # of an opening, over the dips at both sides


@dataclass(frozen=True)
class Closures:
    """Closures of lips at m, b and p between open moments: how many there are, how many are shown, how many are shown wrongly."""

    wanted: int
    found: int
    shown: int
    right: int


def closures_shown(measured_T: Curve, expected_T: Curve, moments: Sequence[int]) -> Closures:
    """Compare a measured opening with the expected one at closures, given by their pictures.

    Wanted: a moment at which the expected mouth is shut (within a picture) and open a little before and after. Found: the
    measured mouth is shut there, within a picture. Shown: a lowest point of the measured mouth between open moments;
    right, where the expected mouth is shut within two pictures.
    """
    count = len(measured_T)
    wanted = found = shown = right = 0
    for moment in moments:
        if AROUND <= moment < count - AROUND and _between_open(expected_T, moment):
            near = slice(moment - 1, moment + 2)
            if expected_T[near].min() <= WELL_SHUT:
                wanted += 1
                found += bool(measured_T[near].min() <= SHUT)
    for moment in range(AROUND, count - AROUND):
        lowest = measured_T[moment] == measured_T[moment - 2 : moment + 3].min()
        first = measured_T[moment] < measured_T[moment - 1]  # of a flat stretch
        if measured_T[moment] <= SHUT and lowest and first and _between_open(measured_T, moment):
            shown += 1
            right += bool(expected_T[moment - 2 : moment + 3].min() <= SHUT)
    return Closures(wanted, found, shown, right)


def _between_open(curve_T: Curve, moment: int) -> bool:
    """Tell whether a mouth is open a little before and a little after a picture."""
    before, after = curve_T[moment - AROUND : moment], curve_T[moment + 1 : moment + AROUND + 1]
    return bool(before.max() > OPEN and after.max() > OPEN)


def openings(curve_T: Curve) -> int:
    """Return how often a mouth opens: highest points that rise by ``PROMINENCE`` from the dip before and after."""
    count, high, low, rising = 0, -np.inf, np.inf, True
    for value in [*curve_T, -np.inf]:
        if rising:
            high = max(high, value)
            if value < high - PROMINENCE:
                count += bool(high > PROMINENCE)
                rising, low = False, value
        else:
            low = min(low, value)
            if value > low + PROMINENCE:
                rising, high = True, value
    return count


def onset_lag(measured_T: Curve, expected_T: Curve) -> int | None:
    """Return by how many pictures a mouth first opens late (negative: early); None if one of them never opens."""
    first = [np.flatnonzero(curve > OPEN) for curve in (measured_T, expected_T)]
    if not all(len(each) for each in first):
        return None
    return int(first[0][0] - first[1][0])


def blinks_of(shut_T: Curve, fps: float) -> tuple[float, float]:
    """Return the blinks a minute, and how many pictures they last (mean; not a number without one)."""
    closed = np.concatenate([[False], shut_T > 0.25, [False]])
    starts = np.flatnonzero(closed[1:] & ~closed[:-1])
    stops = np.flatnonzero(~closed[1:] & closed[:-1])
    lengths = [b - a for a, b in zip(starts, stops, strict=True) if b - a >= 3 and shut_T[a:b].max() > 0.6]
    minutes = len(shut_T) / fps / 60
    return len(lengths) / minutes, float(np.mean(lengths)) if lengths else float("nan")
