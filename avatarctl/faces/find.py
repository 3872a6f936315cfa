"""Find every face of a picture with its points, the largest first; what the detector takes for a face and isn't is left out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from avatarctl.faces.detect import Detection, detect
from avatarctl.faces.landmarks import PRESENT, Landmarks, landmarks_of, opening, yaw_degrees
from avatarctl.faces.regions import OVAL, head_box

# The detector sees 256 pixels: in a picture of a whole room a face is a few of them. Then it looks at quarters as well.
TILES_PER_SIDE = 3
TILE_SHARE = 0.5
LONGEST_PX = 2048  # longer side at which a picture is looked at: the networks see 256 and 192 pixels of it
SAME_PLACE = 0.5  # share of the smaller box that two finds of one face have in common at least


@dataclass(frozen=True)
class Face:
    """A face: its points in pixels, and how sure it is that it is one (0 … 1)."""

    points_N3: NDArray[np.float64]
    presence: float

    @property
    def points_N2(self) -> NDArray[np.float64]:
        """Return x and y of the points."""
        return self.points_N3[:, :2]

    @property
    def box(self) -> NDArray[np.float64]:
        """Return (x0, y0, x1, y1) of the face's oval."""
        oval = self.points_N2[list(OVAL)]
        return np.concatenate([oval.min(axis=0), oval.max(axis=0)])

    @property
    def head(self) -> NDArray[np.float64]:
        """Return (x0, y0, x1, y1) with hair, ears and chin."""
        return head_box(self.points_N2)

    @property
    def height(self) -> float:
        """Return the height of the face's oval in pixels."""
        return float(self.box[3] - self.box[1])

    @property
    def opening(self) -> float:
        """Return how far the mouth is open."""
        return opening(self.points_N2)

    @property
    def yaw_degrees(self) -> float:
        """Return how far the face is turned aside."""
        return yaw_degrees(self.points_N3)


def find_faces(picture_HWC: NDArray[np.uint8], device: str = "cpu", small: bool = True) -> list[Face]:
    """Return the faces of an RGB picture (H, W, 3), the largest first.

    ``small``: where none is found, small ones are looked for in parts of the picture, which takes ten times as long.
    """
    faces: list[Face] = []
    for face in _faces_of(picture_HWC, detect(picture_HWC, device), device):
        if not _known(face, faces):
            faces.append(face)
    if not faces and small:
        for corner, tile in _tiles(picture_HWC):
            moved = [
                Detection(each.score, each.box + np.tile(corner, 2), each.points_62 + corner)
                for each in detect(tile, device)
            ]
            for face in _faces_of(picture_HWC, moved, device):
                if not _known(face, faces):
                    faces.append(face)
    return sorted(faces, key=lambda face: -face.height)


def find_in(picture: Image.Image, device: str = "cpu") -> list[Face]:
    """Return the faces of an RGB picture of any size in its own pixels, the largest first; a large one is looked at reduced."""
    factor = -(-max(picture.size) // LONGEST_PX)
    small = picture.reduce(factor) if factor > 1 else picture
    scale = np.array([picture.width / small.width, picture.height / small.height, factor])
    return [Face(face.points_N3 * scale, face.presence) for face in find_faces(np.asarray(small), device)]


def face_from(landmarks: Landmarks) -> Face:
    """Return landmarks as a face."""
    return Face(landmarks.points_N3, landmarks.presence)


def _faces_of(picture_HWC: NDArray[np.uint8], detections: list[Detection], device: str) -> list[Face]:
    found = [face_from(landmarks_of(picture_HWC, each, device)) for each in detections]
    return [face for face in found if face.presence > PRESENT]


def _tiles(picture_HWC: NDArray[np.uint8]) -> list[tuple[NDArray[np.float64], NDArray[np.uint8]]]:
    """Return overlapping squares of half the longer side, with their corners (x, y)."""
    height, width = picture_HWC.shape[:2]
    side = round(max(height, width) * TILE_SHARE)
    tops = np.unique(np.linspace(0, max(height - side, 0), TILES_PER_SIDE).round().astype(int))
    lefts = np.unique(np.linspace(0, max(width - side, 0), TILES_PER_SIDE).round().astype(int))
    return [
        (np.array([left, top], np.float64), picture_HWC[top : top + side, left : left + side])
        for top in tops
        for left in lefts
    ]


def _known(face: Face, others: list[Face]) -> bool:
    return any(covered(face.box, other.box) > SAME_PLACE for other in others)


def covered(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return the share of the smaller of two boxes that lies in the other."""
    common = np.maximum(0, np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])).prod()
    return float(common / min((box[2:] - box[:2]).prod() for box in (one, other)))
