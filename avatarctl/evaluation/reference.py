"""What a video's face is compared with: a picture of the person, or the first second of the video itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from avatarctl.errors import InputFileError
from avatarctl.evaluation.asked import Box, check_picture
from avatarctl.evaluation.skin import measure
from avatarctl.faces.find import Face, find_in
from avatarctl.faces.identity import identity_of
from avatarctl.networks.images import read_image

FIRST_S = 1.0


@dataclass(frozen=True)
class Reference:
    """Who it should be, and how sharp and of what colour (L, a, b) the face should be. ``name``: for people."""

    name: str
    who: NDArray[np.float32] | None
    sharpness: float
    colour: tuple[float, float, float]


def of_picture(path: Path, face_height: float, face_in: Box | None = None) -> Reference:
    """Return the largest face of a picture, as sharp as it can be at the height (pixels) that it has in the video.

    ``face_in``: only this part (left, top, right, bottom) of the picture counts. Raises ``InputFileError`` for a picture that
    can't be read or has no face.
    """
    picture, face = face_of(path, face_in)
    shrink = min(face_height / face.height, 1.0) if face_height > 0 else 1.0
    size = (max(round(picture.width * shrink), 1), max(round(picture.height * shrink), 1))
    pixels = np.asarray(picture.resize(size, Image.Resampling.LANCZOS))
    small = Face(face.points_N3 * np.array([size[0] / picture.width, size[1] / picture.height, shrink]), face.presence)
    skin = measure(pixels, small)
    return Reference(path.name, identity_of(np.asarray(picture), face.points_N2), skin.sharpness, skin.colour)


def face_of(path: Path, face_in: Box | None = None) -> tuple[Image.Image, Face]:
    """Return a picture and its largest face; raises ``InputFileError`` without one."""
    check_picture(path)
    picture = read_image(path)
    picture = picture.crop(face_in) if face_in is not None else picture
    faces = find_in(picture)
    if not faces:
        raise InputFileError(
            f"{path}: got a picture without a face, expected one of the person in the video",
            "choose another --reference, or leave it out: then the first second of the video is the reference",
        )
    return picture, faces[0]
