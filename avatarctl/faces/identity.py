"""Describe whose face it is in 128 numbers: two pictures of one person are usually less than 0.6 apart.

dlib's face recognition ResNet (King, 2017), on a chip of 150 x 150 pixels in which eyes and nose have fixed places.
"""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from avatarctl.faces.graph import WEIGHTS, whole_float32
from avatarctl.faces.warp import similarity, warp

SIDE = 150
SAME_PERSON = 0.6  # distance under which dlib takes two faces for one person's
# Corners of the eyes and base of the nose: points of Face Mesh, and their places in dlib's mean shape (padding 0.25).
CORNERS = (263, 362, 33, 133, 2)
MEAN_SHAPE = (
    (0.8595674595992, 0.2134981538014),
    (0.6460604764104, 0.2289674387677),
    (0.1205750620789, 0.2137274526848),
    (0.3340850613712, 0.2290642403242),
    (0.4901123135679, 0.6277975316475),
)
PADDING = 0.25
MEAN_RGB = (122.782, 117.001, 104.298)
BLOCKS = (
    *("conv32_1", "conv32_2", "conv32_3"),
    *("conv64_down", "conv64_1", "conv64_2", "conv64_3"),
    *("conv128_down", "conv128_1", "conv128_2"),
    *("conv256_down", "conv256_1", "conv256_2", "conv256_down_out"),
)


def identity_of(
    picture_HWC: NDArray[np.uint8], points_N2: NDArray[np.float64], device: str = "cpu"
) -> NDArray[np.float32]:
    """Return the 128 numbers of a face whose 468 points are known."""
    targets = (PADDING + np.array(MEAN_SHAPE)) / (1 + 2 * PADDING) * SIDE
    chip = warp(picture_HWC, similarity(points_N2[list(CORNERS)], targets), SIDE)
    return _network(device)(chip)[0].numpy()


def distance(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Return how unlike two faces are."""
    return float(np.linalg.norm(one - other))


@cache
def _network(device: str) -> _ResNet:
    return _ResNet(device)


class _ResNet:
    """29 convolutions in residual blocks; each convolution is followed by a scale and an offset per channel."""

    def __init__(self, device: str) -> None:
        with safe_open(WEIGHTS / "identity.safetensors", "pt") as file:
            ranges = json.loads(file.metadata()["quantised"])  # name -> step and least value of its bytes
            self._weights = {
                name: (file.get_tensor(name).float() * ranges[name][0] + ranges[name][1]).to(device)
                for name in file.keys()  # noqa: SIM118
            }
        self._device = torch.device(device)

    @torch.inference_mode()
    def __call__(self, chips_BCHW: Tensor) -> Tensor:
        """Return (B, 128) of chips (B, 3, 150, 150) in 0 … 255."""
        x = ((chips_BCHW - torch.tensor(MEAN_RGB).view(1, 3, 1, 1)) / 256).to(self._device)
        with whole_float32():
            x = F.max_pool2d(F.relu(self._convolve(x, "conv32_down", stride=2, padding=0)), 3, 2)
            for name in BLOCKS:
                x = self._smaller(x, name) if "down" in name else self._residual(x, name)
        return (x.mean(dim=(2, 3)) @ self._weights["fc"]).cpu()

    def _convolve(self, x: Tensor, name: str, stride: int = 1, padding: int = 1) -> Tensor:
        weights = self._weights
        x = F.conv2d(x, weights[f"{name}.f"], weights[f"{name}.b"], stride, padding)
        return x * weights[f"{name}.s"].view(1, -1, 1, 1) + weights[f"{name}.o"].view(1, -1, 1, 1)

    def _residual(self, x: Tensor, name: str) -> Tensor:
        inner = F.relu(self._convolve(x, f"{name}/conv1"))
        return F.relu(x + self._convolve(inner, f"{name}/conv2"))

    def _smaller(self, x: Tensor, name: str) -> Tensor:
        """Halve the sides: the shortcut is an average pool, and what it lacks in channels or edges is zero."""
        inner = F.relu(self._convolve(x, f"{name}/conv1", stride=2, padding=0))
        out, short = self._convolve(inner, f"{name}/conv2"), F.avg_pool2d(x, 2, 2)
        rows, columns = short.shape[2] - out.shape[2], short.shape[3] - out.shape[3]
        return F.relu(F.pad(out, (0, columns, 0, rows)) + F.pad(short, (0, 0, 0, 0, 0, out.shape[1] - short.shape[1])))
