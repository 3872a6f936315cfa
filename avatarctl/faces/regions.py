"""Turn the points of a face into regions: masks of lips and face, and the box of the whole head."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

# Outlines as the released lip_mask_extractor.py fills them, and Face Mesh's oval of the face.
UPPER_LIP = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291)
LOWER_LIP = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291)
OVAL = (
    *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377),
    *(152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
)
# The head around the face's oval, in heights and widths of the oval: hair above, ears beside, chin below.
HAIR, EARS, CHIN = 0.45, 0.18, 0.08


def lip_mask(points_N2: NDArray[np.float64], width: int, height: int) -> NDArray[np.uint8]:
    """Return (H, W) with 255 inside the lips and the mouth between them."""
    return _filled(points_N2, (UPPER_LIP, LOWER_LIP), width, height)


def face_mask(points_N2: NDArray[np.float64], width: int, height: int) -> NDArray[np.uint8]:
    """Return (H, W) with 255 inside the oval of the face."""
    return _filled(points_N2, (OVAL,), width, height)


def head_box(points_N2: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (x0, y0, x1, y1) of the face grown to hold hair, ears and chin."""
    low, high = points_N2[list(OVAL)].min(axis=0), points_N2[list(OVAL)].max(axis=0)
    width, height = high - low
    return np.array([low[0] - EARS * width, low[1] - HAIR * height, high[0] + EARS * width, high[1] + CHIN * height])


def _filled(
    points_N2: NDArray[np.float64], outlines: tuple[tuple[int, ...], ...], width: int, height: int
) -> NDArray[np.uint8]:
    mask = Image.new("L", (width, height))
    draw = ImageDraw.Draw(mask)
    for outline in outlines:
        draw.polygon([(float(x), float(y)) for x, y in points_N2[list(outline)]], fill=255)
    return np.array(mask)
