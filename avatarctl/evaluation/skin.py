"""Measure one face in one picture: how far its mouth is open, how sharp it is, the colour of its skin."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from avatarctl.evaluation.colour import lab
from avatarctl.faces.find import Face

SIDES, FOREHEAD, NOSE_BASE = (234, 454), 10, 2  # points of Face Mesh
DOWN_TO_CHIN = 1.6  # from the forehead, in ways to the base of the nose
HEIGHT, WIDTH = 128, 96  # pixels to which the box of every face is scaled: sharpness at one size can be compared
# In units of the box: where skin is, and neither lips nor eyes move. Sharpness counts above the mouth.
INNER = 0.82  # of the ellipse in the box
EYES, MOUTH = (0.22, 0.46, 0.08, 0.92), (0.60, 1.0, 0.18, 0.82)  # top, bottom, left, right
SHARP_ABOVE = 0.60
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


class Skin(NamedTuple):
    """``opening`` of the mouth, ``sharpness`` (fine detail over contrast), ``colour`` (L, a, b) of the skin."""

    opening: float
    sharpness: float
    colour: tuple[float, float, float]


def measure(picture_HWC: NDArray[np.uint8], face: Face) -> Skin:
    """Measure a face in an RGB picture (H, W, 3)."""
    chip = chip_of(picture_HWC, face)
    rgb = chip[_skin()].astype(np.float64).mean(axis=0)
    lightness, a, b = (float(value) for value in lab(rgb))
    return Skin(face.opening, sharpness_of(chip), (lightness, a, b))


def chip_of(picture_HWC: NDArray[np.uint8], face: Face) -> NDArray[np.uint8]:
    """Return the box of a face, without what lies outside of the picture, scaled to (HEIGHT, WIDTH, 3)."""
    height, width = picture_HWC.shape[:2]
    left, top, right, bottom = _still_box(face)
    box = (max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height)))
    if box[2] - box[0] < 1 or box[3] - box[1] < 1:
        box = (0.0, 0.0, float(width), float(height))
    low_x, low_y, high_x, high_y = int(box[0]), int(box[1]), int(np.ceil(box[2])), int(np.ceil(box[3]))
    part = Image.fromarray(np.ascontiguousarray(picture_HWC[low_y:high_y, low_x:high_x]))
    inner = (box[0] - low_x, box[1] - low_y, box[2] - low_x, box[3] - low_y)
    return np.asarray(part.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, box=inner))


def _still_box(face: Face) -> tuple[float, float, float, float]:
    """Return the box of a face by what speaking doesn't move: sides, forehead and base of the nose; not by its chin."""
    points = face.points_N2
    left, right = sorted(float(points[place, 0]) for place in SIDES)
    top, nose = float(points[FOREHEAD, 1]), float(points[NOSE_BASE, 1])
    return left, top, right, top + DOWN_TO_CHIN * max(nose - top, 1.0)


def sharpness_of(chip_HWC: NDArray[np.uint8]) -> float:
    """Return the mean of a second difference of brightness over its deviation: free of light and contrast."""
    grey = chip_HWC[: round(SHARP_ABOVE * HEIGHT)].astype(np.float32) @ LUMA
    fine = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    deviation = float(grey.std())
    return float(np.abs(fine).mean()) / deviation if deviation > 1 else 0.0


@cache
def _skin() -> NDArray[np.bool_]:
    """Return where in a chip skin is that doesn't move."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    y, x = y / HEIGHT, x / WIDTH
    mask = ((x - 0.5) / (0.5 * INNER)) ** 2 + ((y - 0.5) / (0.5 * INNER)) ** 2 <= 1
    for top, bottom, left, right in (EYES, MOUTH):
        mask &= ~((y >= top) & (y < bottom) & (x >= left) & (x < right))
    return np.asarray(mask, bool)
