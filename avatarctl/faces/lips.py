"""Compare how far a mouth is open with how loud the voice is: lip-envelope correlation, its lag, shifted voices as zero."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

MOST_LAG_S = 0.5
SHIFTED = 20  # voices that don't belong to the mouth
APART_S = 1.0  # that a shifted voice is away from its place at least, beyond the lags
QUIET_DB = 40.0  # so far under the loudest, one silence is like the other

Curve = NDArray[np.float64]


@dataclass(frozen=True)
class LipSync:
    """How a mouth follows a voice. ``correlation``: Pearson's, at the lag where it is highest.

    ``lag_s`` is positive when the lips come after the sound. ``shifted_mean`` and ``shifted_q95`` are the mean and the
    95 % quantile of the same number for voices from other moments of the recording: what chance reaches.
    """

    correlation: float
    lag_s: float
    shifted_mean: float
    shifted_q95: float

    @property
    def margin(self) -> float:
        """Return by how much the correlation exceeds what chance reaches in 19 of 20 cases."""
        return self.correlation - self.shifted_q95


def lip_sync(
    opening_T: Curve,
    level_T: Curve,
    fps: Fraction,
    start: int = 0,
    most_lag_s: float = MOST_LAG_S,
    around_s: float = 0.0,
) -> LipSync:
    """Compare the opening of a mouth, from picture ``start`` of a recording on, with the level of its voice in dB.

    ``level_T`` is the level in every picture of the whole recording: the shifted voices come from it. Lags up to
    ``most_lag_s`` around ``around_s`` are tried.
    """
    rate = float(fps)
    middle, most = round(around_s * rate), max(round(most_lag_s * rate), 1)
    level_T = np.maximum(level_T, level_T.max(initial=-np.inf) - QUIET_DB)
    lags = np.arange(middle - most, middle + most + 1)
    own = correlations(opening_T, level_T, start - lags)
    best = int(np.argmax(own))
    apart = 2 * most + max(round(APART_S * rate), 1)
    places = _other_places(len(level_T), start - middle, apart)
    shifted = [float(correlations(opening_T, level_T, place - lags + middle).max()) for place in places]
    return LipSync(
        float(own[best]),
        float((lags[best] + _between(own, best)) / rate),
        float(np.mean(shifted)) if shifted else 0.0,
        float(np.quantile(shifted, 0.95)) if shifted else 0.0,
    )


def correlations(opening_T: Curve, level_T: Curve, starts: NDArray[np.int_]) -> Curve:
    """Return Pearson's correlation of a mouth with the voice from each of some pictures on; the recording is a circle."""
    count = len(opening_T)
    mouth = opening_T - opening_T.mean()
    places = (starts[:, None] + np.arange(count)) % len(level_T)
    voices = level_T[places]
    voices = voices - voices.mean(axis=1, keepdims=True)
    sizes = np.sqrt((mouth @ mouth) * (voices**2).sum(axis=1))
    still = sizes < 1e-6 * count  # a mouth or voice that never changes tells nothing
    return np.where(still, 0.0, voices @ mouth / np.where(still, 1.0, sizes))


def _other_places(length: int, start: int, apart: int) -> list[int]:
    """Return places spread over the circle of the recording, away from ``start``; none in a recording that is too short."""
    room = length - 2 * apart
    if room < 1:
        apart, room = length // 4, length - 2 * (length // 4)
    count = min(SHIFTED, room)
    return [start + apart + round(place) for place in np.linspace(0, room, count)] if count > 0 else []


def _between(values: Curve, best: int) -> float:
    """Return where the top of a parabola through the highest value and its neighbours lies, -0.5 … 0.5."""
    if not 0 < best < len(values) - 1:
        return 0.0
    before, top, after = values[best - 1 : best + 2]
    bend = before - 2 * top + after
    return float(0.5 * (before - after) / bend) if bend < 0 else 0.0
