"""Place the crop of a picture around a face, in whole pixels, and say what is wrong with a picture for an avatar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from avatarctl.faces.find import Face
from avatarctl.faces.landmarks import EYES

EYE_LINE = 0.42  # where the eyes stand, as a share of the crop's height
AIR_ABOVE = 0.1  # free share of the crop's height above the head
SMALL_FACE_PX, SMALL_FACE = 96, 0.2  # height under which lips are a few pixels; in a small video a share of its height
TURNED_DEGREES = 35.0
SURE = 0.95  # presence of whole faces that look at the camera is over 0.99
SMALL_PICTURE = 0.5  # share of the video's side under which a picture is blown up


@dataclass(frozen=True)
class Crop:
    """A part of a picture: corner and size in whole pixels."""

    left: int
    top: int
    width: int
    height: int

    def box(self) -> tuple[int, int, int, int]:
        """Return (left, top, right, bottom)."""
        return self.left, self.top, self.left + self.width, self.top + self.height


def crop_around(picture: tuple[int, int], face: Face | None, video: tuple[int, int]) -> Crop:
    """Return the largest crop of a picture (width, height) with the video's aspect, placed around a face.

    The head is inside, with ``AIR_ABOVE`` over it and the eyes near ``EYE_LINE``, as far as the picture's own edges allow.
    Without a face it is the middle.
    """
    (width, height), (video_width, video_height) = picture, video
    if width * video_height >= height * video_width:
        size = (max(round(height * video_width / video_height), 1), height)
    else:
        size = (width, max(round(width * video_height / video_width), 1))
    if face is None:
        return Crop((width - size[0]) // 2, (height - size[1]) // 2, *size)
    head, oval, air = face.head, face.box, AIR_ABOVE * size[1]
    eyes_y = face.points_N2[list(EYES), 1].mean()
    x = _placed((head[0] + head[2] - size[0]) / 2, size[0], [(head[0], head[2]), (oval[0], oval[2])])
    spans = [(head[1] - air, head[3]), (head[1], head[3]), (oval[1], oval[3]), (eyes_y, oval[3])]
    y = _placed(eyes_y - EYE_LINE * size[1], size[1], spans)
    return Crop(_within(x, width - size[0]), _within(y, height - size[1]), *size)


def _placed(wanted: float, length: int, spans: Sequence[tuple[float, float]]) -> float:
    """Return a start near the wanted one from which ``length`` holds the first of the spans that it can hold.

    When it can hold none, the last one is in the middle: of a face that fills the picture, eyes and mouth rather than hair.
    """
    for low, high in spans:
        if high - low <= length:
            return min(max(wanted, high - length), low)
    return sum(spans[-1]) / 2 - length / 2


def _within(place: float, end: int) -> int:
    return min(max(round(place), 0), max(end, 0))


def problems(picture: tuple[int, int], faces: list[Face], chosen: int, crop: Crop, video: tuple[int, int]) -> list[str]:
    """Return what may spoil a video made from this picture, in words; an empty list when nothing is wrong."""
    found = []
    scale = video[1] / crop.height
    if scale > 1 / SMALL_PICTURE:
        found.append(f"the picture is small: {crop.width}x{crop.height} pixels are enlarged to {video[0]}x{video[1]}")
    if not faces:
        return [*found, "no face was found: the middle of the picture is used (--fit pad keeps all of it)"]
    face = faces[chosen]
    least = min(SMALL_FACE_PX, round(SMALL_FACE * video[1]))
    if face.height * scale < least:
        found.append(
            f"the face is small: {face.height * scale:.0f} pixels high in the video, {least} or more look better"
        )
    left, top, right, bottom = face.box
    if left < 0 or top < 0 or right > picture[0] or bottom > picture[1]:
        found.append("the face is cut off by the picture's edge")
    elif not _inside(face.head, Crop(0, 0, *picture)):
        found.append("the head is cut off by the picture's edge")
    elif not _inside(face.head, crop):
        found.append(f"the head is cut off: it is larger than the crop of {crop.width}x{crop.height}")
    if abs(face.yaw_degrees) > TURNED_DEGREES:
        found.append(f"the face is turned aside by {abs(face.yaw_degrees):.0f} degrees: it should look at the camera")
    if face.presence < SURE:
        found.append("the face is partly hidden, blurred or turned away")
    return found


def _inside(head: np.ndarray, crop: Crop) -> bool:
    slack = 0.02 * crop.height
    left, top, right, bottom = crop.box()
    return bool(
        head[0] >= left - slack and head[1] >= top - slack and head[2] <= right + slack and head[3] <= bottom + slack
    )
