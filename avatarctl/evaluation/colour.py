"""Turn sRGB colours into CIE Lab, in which equal distances look equally large: about 1 can just be seen side by side."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
WHITE = np.array([0.95047, 1.0, 1.08883])  # D65
SEEN = 1.0  # distance that can just be seen


def linear(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the light (…, 3), 0 … 1, of sRGB colours (…, 3) in 0 … 255."""
    share = np.asarray(rgb, np.float64) / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def lab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return sRGB colours (…, 3) in 0 … 255 as CIE Lab (…, 3), D65."""
    xyz = linear(rgb) @ TO_XYZ.T / WHITE
    root = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.stack(
        [116 * root[..., 1] - 16, 500 * (root[..., 0] - root[..., 1]), 200 * (root[..., 1] - root[..., 2])], axis=-1
    )
