"""What pictures of a drawn person show: mouth and eyelids, found by comparing with pictures drawn of the same person.

Every part is drawn in many poses; a picture shows the pose that it differs least from, wherever the head has moved by up
to two pixels. So lips, teeth, tongue and shadows all count, whatever the colours of the face.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from avatarctl.evaluation.colour import lab
from avatarctl.puppet.world.clips import MOUTH_REGION, region_mask
from avatarctl.puppet.world.face import EYE_Y
from avatarctl.puppet.world.identity import IRISES, Identity, Pose
from avatarctl.puppet.world.mouth import X, Y
from avatarctl.puppet.world.portrait import VIEW, Portrait, in_picture

SHIFTS = [(dx, dy) for dy in range(-2, 3) for dx in range(-2, 3)]  # pixels at 128
OPENINGS, WIDTHS, LIDS = np.linspace(0, 1, 21), np.linspace(0, 1, 5), np.linspace(0, 1, 11)
CHUNK = 64
JUST_VISIBLE = 1.0  # a difference of colours in Lab
# Boxes of the drawing: left, top, right, bottom.
MOUTH_BOX = (X - 0.16, Y - 0.06, X + 0.16, Y + 0.13)
EYES_BOX = (0.5 - 0.21, EYE_Y - 0.035, 0.5 + 0.21, EYE_Y + 0.045)


@dataclass(frozen=True)
class Seen:
    """Opening and width of the mouth, how far the lids are shut, each (T,), and where the eyes were found, (T, 2) pixels."""

    opening: NDArray[np.float64]
    width: NDArray[np.float64]
    shut: NDArray[np.float64]
    moved: NDArray[np.int64]


def see(frames_THWC: NDArray[np.uint8], who: Identity) -> Seen:
    """Return what pictures show of a person."""
    portrait = Portrait.of(who, frames_THWC.shape[1])
    mouths = [Pose(opening=o, width=w) for o in OPENINGS for w in WIDTHS]
    pressed = [Pose(width=w, press=1) for w in WIDTHS]
    errors, _ = _compare(frames_THWC, portrait, [*mouths, *pressed], MOUTH_BOX)
    grid = errors[:, : len(mouths)].reshape(-1, len(OPENINGS), len(WIDTHS))
    grid[:, 0] = np.minimum(grid[:, 0], errors[:, len(mouths) :])
    lids, moved = _compare(frames_THWC, portrait, [Pose(blink=b) for b in LIDS], EYES_BOX)
    return Seen(_lowest(grid.min(2), OPENINGS), _lowest(grid.min(1), WIDTHS), _lowest(lids, LIDS), moved)


def gap_area(frames_THWC: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return how much of the picture (T,) is inside of a mouth: what is dark, and teeth, which are bright and grey.

    Knows nothing of the person; a tongue isn't counted.
    """
    size = frames_THWC.shape[1]
    x, y, rx, ry = MOUTH_REGION
    inside = region_mask(size, [(x, y, rx * 0.82, ry * 0.95)]) > 0
    pixels = frames_THWC[:, inside].astype(np.float64)
    least, most = pixels.min(2), pixels.max(2)
    dark = np.clip((78 - pixels @ np.array([0.299, 0.587, 0.114])) / 42, 0, 1)
    grey = np.clip((0.16 - (most - least) / (most + 1)) / 0.08, 0, 1)
    teeth = np.clip((least - 150) / 40, 0, 1) * grey
    return (dark + teeth).sum(1) / size**2


def _compare(
    frames_THWC: NDArray[np.uint8], portrait: Portrait, poses: list[Pose], box: tuple[float, float, float, float]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return mean squared differences (T, poses) of a box at the best shift, and the shift of the best pose (T, 2)."""
    size = frames_THWC.shape[1]
    (left, top), (right, bottom) = (in_picture(*corner) for corner in (box[:2], box[2:]))
    rows, columns = slice(round(top * size), round(bottom * size)), slice(round(left * size), round(right * size))
    drawn = np.stack([portrait.picture(pose)[rows, columns] for pose in poses]).reshape(len(poses), -1)
    drawn = drawn.astype(np.float32)
    squares = (drawn**2).sum(1)
    unit = max(round(size / 128), 1)
    errors, moved = [], []
    for start in range(0, len(frames_THWC), CHUNK):
        chunk = frames_THWC[start : start + CHUNK].astype(np.float32)
        found = []
        for dx, dy in SHIFTS:
            across = slice(columns.start + dx * unit, columns.stop + dx * unit)
            down = slice(rows.start + dy * unit, rows.stop + dy * unit)
            part = chunk[:, down, across].reshape(len(chunk), -1)
            found.append((part**2).sum(1)[:, None] - 2 * part @ drawn.T + squares)
        each = np.stack(found)  # shifts, pictures, poses
        errors.append(each.min(0) / drawn.shape[1])
        moved.append(np.array(SHIFTS)[each.min(2).argmin(0)] * unit)
    return np.concatenate(errors).astype(np.float64), np.concatenate(moved)


def _lowest(errors_TN: NDArray[np.float64], grid_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return where on a grid errors are lowest, between its points by a parabola."""
    best = errors_TN.argmin(1)
    inner = np.clip(best, 1, len(grid_N) - 2)
    before, at, after = (np.take_along_axis(errors_TN, (inner + k)[:, None], 1)[:, 0] for k in (-1, 0, 1))
    bend = before - 2 * at + after
    offset = np.where(bend > 1e-9, np.clip((before - after) / (2 * np.maximum(bend, 1e-9)), -1, 1), 0)
    step = grid_N[1] - grid_N[0]
    return np.where(best == inner, grid_N[inner] + offset * step, grid_N[best])


# -- Colours ------------------------------------------------------------------------------------------------------------


def saturation(frames_THWC: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the mean distance (T,) between the largest and the smallest channel, in grey levels."""
    pixels = frames_THWC.astype(np.float64)
    return (pixels.max(3) - pixels.min(3)).mean((1, 2))


def flash(frames_THWC: NDArray[np.uint8], mask_HW: NDArray[np.bool_], first: int = 7) -> float:
    """Return how far the first pictures' mean colour is from the later ones', of their spread (or of a visible difference).

    Distances are in Lab; the spread is the largest distance but a hundredth later on, at least ``JUST_VISIBLE``. Above 1
    the beginning flashes. ``mask``: where nothing speaks or blinks.
    """
    colours = np.array([lab(frame[mask_HW].astype(np.float64).mean(0)) for frame in frames_THWC])
    away = np.linalg.norm(colours - np.median(colours[first:], axis=0), axis=1)
    return float(away[:first].max() / max(np.quantile(away[first:], 0.99), JUST_VISIBLE))


def first_change(frames_THWC: NDArray[np.uint8], mask_HW: NDArray[np.bool_], first: int = 6) -> float:
    """Return the largest change from picture to picture among the first ones, of the largest but a hundredth later on."""
    pixels = frames_THWC[:, mask_HW].astype(np.float64)
    changes = np.abs(np.diff(pixels, axis=0)).mean((1, 2))
    return float(changes[:first].max() / max(np.quantile(changes[first:], 0.99), 1e-9))


def own_iris_is_nearest(frames_THWC: NDArray[np.uint8], seen: Seen, who: Identity) -> bool:
    """Tell whether the irises' colour is nearer (in Lab) to the person's own than to the other ones that there are."""
    shown = _iris_colour(frames_THWC, seen, who)
    if not np.isfinite(shown).all():
        return False  # eyes that are never open
    others = [iris for iris in IRISES if np.abs(np.subtract(iris, who.iris)).max() > 12]
    candidates = [who, *(replace(who, iris=iris) for iris in others)]
    size = frames_THWC.shape[1]
    still = replace(seen, shut=np.zeros(1), moved=np.zeros((1, 2), int))
    drawn = [_iris_colour(Portrait.of(each, size).picture(Pose())[None], still, who) for each in candidates]
    return int(np.argmin([np.linalg.norm(shown - colour) for colour in drawn])) == 0


def _iris_colour(frames_THWC: NDArray[np.uint8], seen: Seen, who: Identity) -> NDArray[np.float64]:
    """Return the mean colour (3) in Lab of both irises, over pictures with open eyes."""
    size = frames_THWC.shape[1]
    rows, columns = (np.mgrid[:size, :size] + 0.5) / size
    ring = np.zeros((size, size), bool)
    radius = who.eye_height * 1.06 / VIEW
    for side in (-1, 1):
        x, y = in_picture(0.5 + side * who.eye_distance, EYE_Y - 0.003)
        away = np.hypot(columns - x, rows - y)
        ring |= (away > 0.48 * radius) & (away < 0.80 * radius) & (rows > y - 0.3 * radius)
    down, across = np.nonzero(ring)
    open_ = np.flatnonzero(seen.shut < 0.15)
    colours = [
        frames_THWC[i, down + seen.moved[i, 1], across + seen.moved[i, 0]].astype(np.float64).mean(0) for i in open_
    ]
    return lab(np.mean(colours, axis=0)) if colours else np.full(3, np.nan)
