"""Measure how the face and the picture of a video look over time: sharpness, colour, flicker, what stands still, joints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avatarctl.evaluation.numbers import mean, rounded, share, slope
from avatarctl.evaluation.reference import Reference
from avatarctl.evaluation.trend import by_second, trend
from avatarctl.evaluation.watch import COLOURS, Seat, Watched

Curve = NDArray[np.float64]

STILL_PIXEL = 1.5  # grey levels by which a still pixel changes from picture to picture, at most
BESIDE = 0.05  # of the picture that lies beside the head, at least, to tell what is still there
EACH = 0.983  # confidence of each of three colours: one of twenty steady videos is taken for a drifting one
NAMES = (
    *("sharpness", "sharpness_slope_per_minute", "sharpness_slope_interval"),
    *("colour", "colour_slope_per_minute", "colour_slopes"),
    *("flicker", "still_share", "border_ratio", "borders"),
)


@dataclass
class Looks:
    """The group ``picture`` of a row, and curves for the report."""

    row: dict[str, Any] = field(default_factory=lambda: dict.fromkeys(NAMES))
    curves: dict[str, Curve] = field(default_factory=dict)


def score_looks(
    seen: Watched, seat: Seat, reference: Reference | None, stretch_S: NDArray[np.int64], borders: Sequence[int]
) -> Looks:
    """Return how a face and the whole picture look. ``stretch``: of each second, the same within a shot of one person."""
    fps, looks = float(seen.fps), Looks()
    sharp = seat.curve("sharpness")
    if reference is not None and np.isfinite(sharp).any():
        relative = by_second(sharp / reference.sharpness if reference.sharpness > 0 else sharp * np.nan, fps)
        colours = np.stack([by_second(seat.curve(name), fps) for name in COLOURS], axis=1)
        away = np.linalg.norm(colours - np.array(reference.colour), axis=1)
        looks.curves.update(sharpness=relative, colour=away)
        steady = slope(trend(relative, stretch_S))
        looks.row.update(sharpness=mean(relative), colour=mean(away))
        looks.row.update(sharpness_slope_per_minute=steady[0], sharpness_slope_interval=steady[1])
        looks.row.update(_colour_slopes(colours, stretch_S))
    looks.row.update(flicker=_flicker(seen), still_share=_still_share(seen, seat))
    looks.row.update(_borders(seen, borders))
    looks.curves["steps"] = seen.steps
    return looks


def _colour_slopes(colours_S3: Curve, stretch_S: NDArray[np.int64]) -> dict[str, Any]:
    """Return the length of the slope in Lab, and the slope of each of its three values with its interval."""
    found = [trend(colours_S3[:, place], stretch_S, EACH) for place in range(len(COLOURS))]
    if any(each is None for each in found):
        return {}
    length = float(np.linalg.norm([each.slope for each in found if each is not None]))
    slopes = {name: dict(zip(("slope", "interval"), slope(each), strict=True)) for name, each in zip(COLOURS, found)}
    return {"colour_slope_per_minute": rounded(length), "colour_slopes": slopes}


def _flicker(seen: Watched) -> float | None:
    """Return by how much the lightness (L of Lab) of whole pictures jumps back and forth: median second difference."""
    second = np.abs(np.diff(seen.lightness, 2))
    return rounded(float(np.median(second))) if len(second) else None


def _still_share(seen: Watched, seat: Seat) -> float | None:
    """Return the share of the picture beside the head that stands still."""
    rows, columns = seen.still.shape
    beside = np.ones((rows, columns), bool)
    left, top, right, bottom = (seat.curve(name) for name in ("left", "top", "right", "bottom"))
    if np.isfinite(left).any():
        across = _span(left, right, seen.size[0], columns)
        beside[_span(top, bottom, seen.size[1], rows), across] = False
    if beside.mean() < BESIDE:
        return None
    return share(seen.still[beside] < STILL_PIXEL)


def _span(low: Curve, high: Curve, length: int, cells: int) -> slice:
    """Return the cells that lie between two curves of pixels, nearly always."""
    first, last = np.nanquantile(low, 0.02) / length * cells, np.nanquantile(high, 0.98) / length * cells
    return slice(max(int(first), 0), max(int(np.ceil(last)), 0))


def _borders(seen: Watched, borders: Sequence[int]) -> dict[str, Any]:
    """Return the change at borders of windows over the median elsewhere, and how many borders there are."""
    places = [place for place in borders if 0 < place < seen.pictures]
    if not places:
        return {}
    at = np.zeros(seen.pictures, bool)
    at[places] = True
    elsewhere = seen.steps[1:][~at[1:]]
    median = float(np.median(elsewhere)) if len(elsewhere) else 0.0
    ratio = float(seen.steps[at].mean()) / median if median > 0 else None
    return {"border_ratio": rounded(ratio, 3), "borders": len(places)}
