"""Measure the lips of a video against its voice: correlation, lag, chance, a still mouth in speech, a moving one in silence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avatarctl.evaluation.numbers import rounded, share
from avatarctl.evaluation.watch import Seat, Watched
from avatarctl.faces.lips import LEAST_S, LEAST_SEEN, Following, following

Curve = NDArray[np.float64]

MINUTE_S = 60
# Of a mouth, over so long: range of its opening under which it is still. How it was chosen: docs/evaluate.md.
STILL_S, STILL = 0.6, 0.03
SMOOTH = np.array([0.25, 0.5, 0.25])
NAMES = (
    *("correlation", "lag_s", "shifted_mean", "shifted_q95", "times_shifted"),
    *("still_in_speech", "moving_in_silence", "amplitude", "speech_share", "per_minute"),
)


@dataclass
class Lips:
    """The group ``lips`` of a row, curves for the report, and what couldn't be measured."""

    row: dict[str, Any] = field(default_factory=lambda: dict.fromkeys(NAMES))
    curves: dict[str, Curve] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def speaker(seats: Sequence[Seat], levels_T: Curve | None, fps: float) -> tuple[Seat, Following | None]:
    """Return the face that is measured, and how it follows the voice: the largest one that is there for long.

    Of several, another one whose lips clearly follow the voice while those of the larger ones don't.
    """
    ranked = sorted(seats, key=lambda seat: float(np.nansum(seat.curve("height"))), reverse=True)
    found = [None if levels_T is None else following(each.curve("opening"), levels_T, fps) for each in ranked]
    for seat, follows in zip(ranked, found, strict=True):
        if follows is not None and follows.correlation > follows.shifted_q95:
            return seat, follows
    return ranked[0], found[0]


def score_lips(
    seen: Watched, seat: Seat, levels_T: Curve | None, spoken: NDArray[np.bool_], follows: Following | None
) -> Lips:
    """Return what the lips of a face do while somebody speaks and while nobody does. ``levels``: None without sound."""
    opening, fps, lips = seat.curve("opening"), float(seen.fps), Lips()
    there = np.isfinite(opening)
    lips.curves["opening"] = opening
    if levels_T is None:
        lips.notes.append("no sound: how lips follow it wasn't measured (--audio names a recording to compare with)")
        return lips
    lips.curves["level_db"] = levels_T
    lips.row["speech_share"] = share(spoken)
    if not spoken.any():
        silent = not len(levels_T) or float(np.ptp(levels_T)) < 1e-6
        what = "the sound is silent" if silent else "nobody is heard speaking, the sound is faint or steady"
        lips.notes.append(f"{what}: how lips follow it wasn't measured")
    still = _still(opening, fps)
    if (there & spoken).any():
        lips.row["still_in_speech"] = share(still[there & spoken])
        lips.row["amplitude"] = rounded(float(opening[there & spoken].std()))
    silence = there & ~_near(spoken, STILL_S / 2, fps)
    if silence.any():
        lips.row["moving_in_silence"] = share(~still[silence])
    if not spoken.any() or not there.any():  # the one was noted here, the other is in the group face
        return lips
    if follows is None:
        lips.notes.append(_why_not(opening, fps))
        return lips
    lips.curves["by_lag"] = np.array(follows.by_lag)
    lips.row.update(
        correlation=rounded(follows.correlation),
        lag_s=rounded(follows.lag_s),
        shifted_mean=rounded(follows.shifted_mean),
        shifted_q95=rounded(follows.shifted_q95),
        times_shifted=rounded(follows.correlation / follows.shifted_mean if follows.shifted_mean > 0 else None, 2),
        per_minute=_per_minute(opening, levels_T, fps),
    )
    return lips


def _why_not(opening: Curve, fps: float) -> str:
    there = float(np.isfinite(opening).mean())
    if len(opening) < LEAST_S * fps:
        return f"{len(opening) / fps:.1f} s are too few to tell whether lips follow the voice, {LEAST_S:g} s are enough"
    if there < LEAST_SEEN:
        return f"the mouth is seen in {there:.0%} of the pictures: too few to tell whether lips follow the voice"
    return "nothing ever changes in mouth or voice: there is nothing to compare"


def _per_minute(opening: Curve, levels: Curve, fps: float) -> list[dict[str, Any]]:
    step, rows = round(MINUTE_S * fps), []
    for minute in range(max(len(opening) // step, 1)):
        part = slice(minute * step, (minute + 1) * step)
        each = following(opening[part], levels[part], fps, shifted=1)
        facts = (None, None) if each is None else (rounded(each.correlation), rounded(each.lag_s))
        rows.append({"minute": minute, "correlation": facts[0], "lag_s": facts[1]})
    return rows


def _still(opening: Curve, fps: float) -> NDArray[np.bool_]:
    """Return in which pictures a mouth has hardly moved for a while around them."""
    half = max(round(STILL_S * fps / 2), 1)
    padded = np.pad(_smooth(opening), half, constant_values=np.nan)
    around = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1)
    high = np.where(np.isnan(around), -np.inf, around).max(axis=1)
    low = np.where(np.isnan(around), np.inf, around).min(axis=1)
    return np.asarray(high - low < STILL, bool)


def _smooth(opening: Curve) -> Curve:
    """Return an opening without what alternates from picture to picture, as points do that are found from those before."""
    there = np.isfinite(opening)
    weights = _around(there.astype(float), SMOOTH)
    sums = _around(np.where(there, opening, 0.0), SMOOTH)
    return np.where(there, sums / np.maximum(weights, 1e-9), np.nan)


def _near(flags: NDArray[np.bool_], seconds: float, fps: float) -> NDArray[np.bool_]:
    """Return which pictures are at most so many seconds from one with a flag."""
    half = max(round(seconds * fps), 1)
    return np.asarray(_around(flags.astype(float), np.ones(2 * half + 1)) > 0, bool)


def _around(values: Curve, weights: Curve) -> Curve:
    """Return weighted sums around each value, as many as there are values, however many weights there are."""
    return np.convolve(values, weights)[len(weights) // 2 :][: len(values)]
