"""Test helper: photographs, and pictures with a photographed head at a known place (from scikit-image's astronaut)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import skimage
from PIL import Image

DATA = Path(skimage.__file__).parent / "data"
GREY = (96, 100, 110)


def photograph(name: str = "astronaut.png") -> np.ndarray:
    """Return a photograph that comes with scikit-image, (H, W, 3)."""
    return np.array(Image.open(DATA / name).convert("RGB"))


def head(side: int = 400, degrees: float = 0) -> Image.Image:
    """Return the astronaut's head with its surroundings, ``side`` x ``side`` pixels."""
    cut = Image.fromarray(photograph()[:280, 90:370]).resize((side, side), Image.Resampling.LANCZOS)
    return cut.rotate(degrees, Image.Resampling.BICUBIC)


def scene(width: int, height: int, x: int, y: int, side: int = 400, degrees: float = 0) -> np.ndarray:
    """Return a grey picture with the astronaut's head, ``side`` pixels of picture, at a place."""
    room = Image.new("RGB", (width, height), GREY)
    room.paste(head(side, degrees), (x, y))
    return np.array(room)
