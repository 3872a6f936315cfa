"""Measure how lips follow a voice: correlation of their opening with the voice's level, its lag, and what chance reaches.

This is the lip-envelope correlation, not SyncNet's confidence. Lips and voices are both rhythmic, so that a voice of
another moment correlates as well: the same voice, shifted by seconds, is the zero that every correlation is read against.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Curve = NDArray[np.float64]

MOST_LAG_S = 0.6  # as SyncNet searches: 15 pictures at 25 a second
SHIFTED = 20  # voices that are the zero
LEAST_S = 4.0  # shifted voices have to be further off than any lag, on either side
LEAST_SEEN = 0.5  # share of the pictures in which the mouth is seen
QUIETEST_DB = 40.0  # under the loud parts: how much quieter silence is says nothing of lips


@dataclass(frozen=True)
class Following:
    """How lips follow a voice.

    ``correlation``: Pearson's at the best lag. ``lag_s``: how much later than the sound the lips move there (negative:
    earlier), between pictures by a parabola. ``shifted``: what each of the shifted voices reaches at its own best lag.
    ``by_lag``: the correlation at each lag, in pictures from ``-len // 2`` on.
    """

    correlation: float
    lag_s: float
    shifted: tuple[float, ...]
    by_lag: tuple[float, ...]

    @property
    def shifted_mean(self) -> float:
        """Return the mean that shifted voices reach."""
        return float(np.mean(self.shifted))

    @property
    def shifted_q95(self) -> float:
        """Return what 19 of 20 shifted voices don't reach."""
        return float(np.quantile(self.shifted, 0.95))


def following(
    opening_T: Curve,
    levels_T: Curve,
    fps: float,
    shifted: int = SHIFTED,
    *,
    start: int = 0,
    around: int = 0,
    most_lag_s: float = MOST_LAG_S,
    least_s: float = LEAST_S,
) -> Following | None:
    """Compare the opening of a mouth (not a number where it isn't seen) with the levels of a voice in dB, per picture.

    The mouth is that of the pictures from ``start`` on; shifted voices come from all of ``levels_T``. Lags up to
    ``most_lag_s`` beside ``around`` pictures are tried. None where there is nothing to compare: less than ``least_s``
    seconds, a mouth seen in less than half of the pictures, a mouth or a voice that never moves.
    """
    count = min(len(opening_T), len(levels_T) - start)
    seen_T = np.isfinite(opening_T[:count])
    if count < least_s * fps or seen_T.mean() < LEAST_SEEN:
        return None
    recording = np.roll(levels_T, around - start)  # the mouth's own voice comes first
    recording = np.maximum(recording, np.quantile(recording[:count], 0.95) - QUIETEST_DB)
    levels, opening = recording[:count], opening_T[:count]
    if np.ptp(levels) < 1e-6 or np.ptp(opening[seen_T]) < 1e-9:
        return None
    most = max(round(most_lag_s * fps), 1)
    own = _correlations(opening, seen_T, levels, most)
    best = int(np.argmax(own))
    # Shifted round the end, evenly, and further than any lag: never the voice's own moment.
    least = 2 * most + 1
    shifts = np.linspace(least, len(recording) - least, shifted).round().astype(int)
    others = [np.roll(recording, -shift)[:count] for shift in shifts]
    chance = [float(_correlations(opening, seen_T, other, most).max()) for other in others]
    lag = around + best + _between(own, best) - most
    return Following(float(own[best]), lag / fps, tuple(chance), tuple(own.tolist()))


def _correlations(opening_T: Curve, seen_T: NDArray[np.bool_], levels_T: Curve, most: int) -> Curve:
    """Return Pearson's correlation over the pictures that are seen at every lag from ``-most`` to ``most``."""
    found = np.zeros(2 * most + 1)
    count = len(opening_T)
    for place, lag in enumerate(range(-most, most + 1)):
        late, early = max(lag, 0), max(-lag, 0)
        part = slice(late, count - early)
        seen = seen_T[part]
        a = opening_T[part][seen]
        b = levels_T[early : count - late][seen]
        a, b = a - a.mean(), b - b.mean()
        norm = float(np.sqrt((a @ a) * (b @ b)))
        found[place] = float(a @ b) / norm if norm > 1e-12 else 0.0
    return found


def _between(values_N: Curve, best: int) -> float:
    """Return by how much the top of a parabola through the highest value and its neighbours lies beside it."""
    if not 0 < best < len(values_N) - 1:
        return 0.0
    before, at, after = values_N[best - 1 : best + 2]
    bend = before - 2 * at + after
    return float(np.clip((before - after) / (2 * bend), -0.5, 0.5)) if bend < -1e-12 else 0.0
