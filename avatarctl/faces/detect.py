"""Find the faces of a picture with BlazeFace: boxes and six key points, best first.

Bazarevsky et al., "BlazeFace: Sub-millisecond Neural Face Detection on Mobile GPUs", 2019; the variant for the back
camera, 256 x 256. A box alone is no proof of a face (it fires on cups and cats too): see ``landmarks.presence``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from avatarctl.faces.graph import Graph

SIDE = 256
STRIDES = (16, 32, 32, 32)
SCORE = 0.5
OVERLAP = 0.3  # share of the union from which two boxes are one face
COVERED = 0.6  # share of the smaller box: on one big face two boxes are left otherwise
KEY_POINTS = ("right eye", "left eye", "nose", "mouth", "right ear", "left ear")


@dataclass(frozen=True)
class Detection:
    """A face in pixels of the picture: ``box`` (x0, y0, x1, y1), ``points_62`` in the order of ``KEY_POINTS``."""

    score: float
    box: NDArray[np.float64]
    points_62: NDArray[np.float64]


def detect(picture_HWC: NDArray[np.uint8], device: str = "cpu") -> list[Detection]:
    """Return the faces of a picture (H, W, 3), RGB in 0 … 255, the surest first."""
    square, offset = _square(picture_HWC)
    pixels = torch.from_numpy(square).permute(2, 0, 1)[None].float()
    small = F.interpolate(pixels, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False) / 127.5 - 1
    out = _network(device)(small)
    numbers = out["regressors"].numpy().reshape(-1, 16).astype(np.float64) / SIDE
    scores = torch.sigmoid(out["classificators"]).numpy().reshape(-1).astype(np.float64)
    sure = scores > SCORE
    numbers, scores, anchors = numbers[sure], scores[sure], _anchors()[sure]
    centres = numbers[:, :2] + anchors
    boxes = np.concatenate([centres - numbers[:, 2:4] / 2, centres + numbers[:, 2:4] / 2], axis=1)
    points = numbers[:, 4:].reshape(-1, 6, 2) + anchors[:, None]
    side = len(square)
    return [
        Detection(each.score, each.box * side - np.tile(offset, 2), each.points_62 * side - offset)
        for each in _joined(scores, boxes, points)
    ]


@cache
def _network(device: str) -> Graph:
    return Graph("face_detection_back", device)


@cache
def _anchors() -> NDArray[np.float64]:
    """Return the centres of the network's anchors, as shares of the picture: two per cell and layer of one stride."""
    rows: list[tuple[float, float]] = []
    for stride in dict.fromkeys(STRIDES):
        cells, repeats = SIDE // stride, 2 * STRIDES.count(stride)
        rows += [
            ((x + 0.5) / cells, (y + 0.5) / cells) for y in range(cells) for x in range(cells) for _ in range(repeats)
        ]
    return np.array(rows)


def _square(picture_HWC: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Return the picture in the middle of a black square, and where its corner (x, y) came to lie."""
    height, width = picture_HWC.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = np.zeros((side, side, 3), np.uint8)
    square[top : top + height, left : left + width] = picture_HWC
    return square, np.array([left, top], np.float64)


def _joined(scores: NDArray[np.float64], boxes: NDArray[np.float64], points: NDArray[np.float64]) -> list[Detection]:
    """Join boxes that show one face into their mean, weighted by their scores."""
    faces, left = [], np.argsort(-scores)
    while len(left):
        group = left[_same_face(boxes[left])]
        shares = scores[group] / scores[group].sum()
        faces.append(
            Detection(float(scores[left[0]]), shares @ boxes[group], np.tensordot(shares, points[group], axes=1))
        )
        left = left[~np.isin(left, group)]
    return faces


def _same_face(boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which boxes show the face of the first one."""
    common = np.maximum(0, np.minimum(boxes[:, 2:], boxes[0, 2:]) - np.maximum(boxes[:, :2], boxes[0, :2])).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return (common / (areas + areas[0] - common) > OVERLAP) | (common / np.minimum(areas, areas[0]) > COVERED)
