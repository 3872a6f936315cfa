"""Find the 468 points of a face with Face Mesh, whether a face is there at all, and how far its mouth is open.

Kartynnik et al., "Real-time Facial Surface Geometry from Monocular Video on Mobile GPUs", 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from avatarctl.faces.detect import Detection
from avatarctl.faces.graph import Graph
from avatarctl.faces.warp import Matrix, apply, warp

SIDE = 192
MARGIN = 1.5  # side of the square around a face, of its box
PRESENT = 0.5  # presence from which a box counts as a face: 0.00 on cups and cats, 1.00 on faces
EYES = (33, 263)  # outer corners
INNER_UPPER, INNER_LOWER, MOUTH_CORNERS = (82, 13, 312), (87, 14, 317), (78, 308)
NOSE_TIP, FACE_SIDES = 1, (234, 454)


@dataclass(frozen=True)
class Landmarks:
    """``points_N3``: 468 points, x and y in pixels of the picture, z in the same scale; ``presence`` 0 … 1."""

    points_N3: NDArray[np.float64]
    presence: float

    @property
    def points_N2(self) -> NDArray[np.float64]:
        """Return x and y of the points."""
        return self.points_N3[:, :2]


def landmarks_of(picture_HWC: NDArray[np.uint8], face: Detection | Landmarks, device: str = "cpu") -> Landmarks:
    """Return the points of a face that was detected, or whose points in the picture before are known."""
    return landmarks_of_many([(picture_HWC, face)], device)[0]


def landmarks_of_many(
    faces: list[tuple[NDArray[np.uint8], Detection | Landmarks]], device: str = "cpu"
) -> list[Landmarks]:
    """Return the points of several faces, each with the picture that it is in, in one pass of the network."""
    if not faces:
        return []
    matrices = [_square_around(face) for _, face in faces]
    cuts = torch.cat([warp(picture, matrix, SIDE) for (picture, _), matrix in zip(faces, matrices, strict=True)])
    out = _network(device)(cuts / 255)
    points_BN3 = out["conv2d_20"].numpy().reshape(len(faces), 468, 3).astype(np.float64)
    presence_B = torch.sigmoid(out["conv2d_30"]).reshape(-1).tolist()
    return [_placed(*each) for each in zip(points_BN3, presence_B, matrices, strict=True)]


def opening(points_N2: NDArray[np.float64]) -> float:
    """Return the gap between the inner lips over the mouth's width: free of size, place and roll."""
    gaps = np.linalg.norm(points_N2[list(INNER_UPPER)] - points_N2[list(INNER_LOWER)], axis=1)
    left, right = points_N2[list(MOUTH_CORNERS)]
    return float(gaps.mean() / np.linalg.norm(left - right))


def yaw_degrees(points_N3: NDArray[np.float64]) -> float:
    """Return how far a face is turned to its left (positive) or right, from the depth of its two sides."""
    right, left = points_N3[list(FACE_SIDES)]
    across = left - right
    return float(np.degrees(np.arctan2(across[2], np.hypot(across[0], across[1]))))


@cache
def _network(device: str) -> Graph:
    return Graph("face_landmark", device)


def _square_around(face: Detection | Landmarks) -> Matrix:
    """Return the matrix that cuts an upright square around a face: eyes level, ``MARGIN`` times the face."""
    if isinstance(face, Detection):
        right_eye, left_eye = face.points_62[:2]
        low, high = face.box[:2], face.box[2:]
    else:
        right_eye, left_eye = face.points_N2[list(EYES)]
        low, high = face.points_N2.min(axis=0), face.points_N2.max(axis=0)
    across = left_eye - right_eye
    angle = np.arctan2(across[1], across[0])
    scale = SIDE / (max(high - low) * MARGIN)
    turned = scale * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return np.column_stack([turned, SIDE / 2 - turned @ ((low + high) / 2)])


def _placed(points_N3: NDArray[np.float64], presence: float, matrix: Matrix) -> Landmarks:
    """Return points of the cut square as points of the picture."""
    scale = float(np.sqrt(np.linalg.det(matrix[:, :2])))
    turned = np.linalg.inv(matrix[:, :2])
    back = np.column_stack([turned, -turned @ matrix[:, 2]])
    return Landmarks(np.column_stack([apply(back, points_N3[:, :2]), points_N3[:, 2] / scale]), presence)
