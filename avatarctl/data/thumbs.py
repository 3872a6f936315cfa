"""Draw the small picture of a sample that contact sheets show: its first frame, with its masks as tints."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from avatarctl.data.clips import Picture

THUMB_PX = 160
TINTS = ((0, 200, 0), (220, 0, 0))  # face, lips


def thumb(row: tuple[Picture | None, ...]) -> bytes:
    """Return a small JPEG of a picture with its masks as tints: green is the face, red are the lips."""
    picture, *masks = row
    assert picture is not None
    shown = Image.fromarray(picture)
    for mask, tint in zip(masks, TINTS, strict=True):
        if mask is not None:
            cover = Image.fromarray((mask[..., 0] * 0.3).astype(np.uint8))
            shown.paste(Image.new("RGB", shown.size, tint), mask=cover)
    shown.thumbnail((THUMB_PX, THUMB_PX))
    buffer = io.BytesIO()
    shown.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
