"""Cut turned and scaled squares out of pictures, and find the similarity that maps points onto others."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Matrix = NDArray[np.float64]  # (2, 3): output pixel = matrix @ (x, y, 1) of the picture


def warp(picture_HWC: NDArray[np.uint8], matrix: Matrix, side: int) -> Tensor:
    """Return the square of ``side`` pixels that ``matrix`` cuts out: float32 (1, 3, side, side), 0 … 255, black outside."""
    height, width = picture_HWC.shape[:2]
    back = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    places = torch.stack([columns, rows, torch.ones_like(rows)], dim=-1).float() @ torch.from_numpy(back.T).float()
    # A crop of what is needed: a picture of 50 million pixels isn't turned into floats for a face.
    low = places.reshape(-1, 2).min(dim=0).values.floor().long().clamp(min=0) - 1
    high = places.reshape(-1, 2).max(dim=0).values.ceil().long() + 2
    left, top = max(int(low[0]), 0), max(int(low[1]), 0)
    right, bottom = min(int(high[0]), width), min(int(high[1]), height)
    if right <= left or bottom <= top:
        return torch.zeros(1, 3, side, side)
    part = torch.from_numpy(picture_HWC[top:bottom, left:right].copy()).permute(2, 0, 1)[None].float()
    grid = ((places - torch.tensor([left, top])) + 0.5) / torch.tensor([right - left, bottom - top]) * 2 - 1
    return F.grid_sample(part, grid[None], align_corners=False, padding_mode="zeros")


def similarity(points_N2: NDArray[np.float64], targets_N2: NDArray[np.float64]) -> Matrix:
    """Return rotation, scale and shift that bring points nearest to targets in the least-squares sense (Umeyama, 1991)."""
    from_mean, to_mean = points_N2.mean(axis=0), targets_N2.mean(axis=0)
    points, targets = points_N2 - from_mean, targets_N2 - to_mean
    u, sizes, v = np.linalg.svd(targets.T @ points)
    mirror = np.diag([1.0, np.sign(np.linalg.det(u @ v))])
    rotation = u @ mirror @ v
    scale = (sizes * np.diag(mirror)).sum() / (points**2).sum()
    return np.column_stack([scale * rotation, to_mean - scale * rotation @ from_mean])


def apply(matrix: Matrix, points_N2: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return points mapped by a matrix."""
    return points_N2 @ matrix[:, :2].T + matrix[:, 2]
