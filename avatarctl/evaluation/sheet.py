"""Keep a few pictures of a video of unknown length, evenly spread, with the points of their faces, for a contact sheet."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from avatarctl.faces.regions import LOWER_LIP, OVAL, UPPER_LIP
from avatarctl.faces.track import Look

MOST = 24  # pictures that are held; when there are more, every second one goes
SHOWN = 12
LONGEST_PX = 240


@dataclass
class Kept:
    """A small picture, its scale, and the points (468, 2) of its faces, in its own pixels."""

    picture: Image.Image
    scale: float
    faces: list[NDArray[np.float64]]


class Sheet:
    """Pictures of a video, offered in order."""

    def __init__(self) -> None:
        self._every = 1
        self._kept: dict[int, Kept] = {}

    def offer(self, number: int, picture_HWC: NDArray[np.uint8]) -> None:
        """Keep a picture if it is time for one."""
        if number % self._every:
            return
        picture = Image.fromarray(picture_HWC)
        factor = max(-(-max(picture.size) // LONGEST_PX), 1)
        self._kept[number] = Kept(picture.reduce(factor), 1 / factor, [])
        if len(self._kept) > MOST:
            self._every *= 2
            self._kept = {place: kept for place, kept in self._kept.items() if place % self._every == 0}

    def show(self, look: Look) -> None:
        """Note the faces of a picture, which come later than itself."""
        kept = self._kept.get(look.number)
        if kept is not None:
            kept.faces = [seen.face.points_N2 * kept.scale for seen in look.faces]

    def pictures(self) -> list[tuple[int, bytes]]:
        """Return some pictures as JPEG files, with outlines of faces and lips, and their numbers."""
        numbers = sorted(self._kept)
        chosen = numbers if len(numbers) <= SHOWN else [numbers[i * len(numbers) // SHOWN] for i in range(SHOWN)]
        return [(number, _drawn(self._kept[number])) for number in chosen]


def _drawn(kept: Kept) -> bytes:
    picture = kept.picture.copy()
    draw = ImageDraw.Draw(picture)
    for points in kept.faces:
        for outline, colour in ((OVAL, "#40c0ff"), (UPPER_LIP, "#ffd040"), (LOWER_LIP, "#ffd040")):
            line = [(float(x), float(y)) for x, y in points[list(outline)]]
            draw.line([*line, line[0]], fill=colour)
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=85)
    return file.getvalue()
