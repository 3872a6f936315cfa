"""Measure the shape of drawn faces by their eyes, and where to look for colour."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from avatarctl.puppet.draw import mouth_box

# The band of the eyes in units of the picture's side.
EYES_Y, EYES_X = (0.30, 0.50), ((0.20, 0.48), (0.52, 0.80))
WHITE = (205.0, 240.0)  # softened ends of the darkest channel between skin and the white of an eye
MEASURES = ("eye_distance", "eye_height", "eye_size")


def face_from_frames(frames_THWC: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return (T, 3) in units of the picture's side: distance between the eyes, their height, square root of an eye's white.

    Not a number where an eye is shut.
    """
    size = frames_THWC.shape[1]
    pixels = frames_THWC.astype(np.float64)
    white = np.clip((pixels.min(3) - WHITE[0]) / (WHITE[1] - WHITE[0]), 0, 1)
    top, bottom = (round(y * size) for y in EYES_Y)
    centres, areas = [], []
    for left, right in ((round(a * size), round(b * size)) for a, b in EYES_X):
        part = white[:, top:bottom, left:right]
        area = part.sum((1, 2))
        area = np.where(area >= (0.02 * size) ** 2 * np.pi, area, np.nan)
        x = (part.sum(1) * (np.arange(left, right) + 0.5)).sum(1) / area
        y = (part.sum(2) * (np.arange(top, bottom) + 0.5)).sum(1) / area
        centres.append((x / size, y / size))
        areas.append(area)
    (left_x, left_y), (right_x, right_y) = centres
    return np.stack([right_x - left_x, (left_y + right_y) / 2, np.sqrt((areas[0] + areas[1]) / 2) / size], axis=1)


def still_mask(size: int) -> NDArray[np.bool_]:
    """Return (size, size) true where a talking head shows who it is: everywhere but around the mouth and the eyes' lids."""
    mask = np.ones((size, size), bool)
    left, top, right, bottom = mouth_box(size)
    mask[top:bottom, left:right] = False
    mask[round(0.26 * size) : round(0.50 * size), round(0.22 * size) : round(0.78 * size)] = False
    return mask
