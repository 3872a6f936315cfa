"""The pictures of a folder of drawn clips, read when they are asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from avatarctl.errors import InputFileError


class Pictures:
    """Clips of one length, as many as ``len`` tells. Read from disk, as hundreds of them would fill the memory."""

    def __init__(self, data: Path) -> None:
        """Look which clips there are; raises ``InputFileError`` if there are none."""
        self.folders = sorted(path for path in data.rglob("square/*/*/images") if path.is_dir())
        if not self.folders:
            raise InputFileError(f"{data}: got no drawn clips", "make some: avatarctl puppet data --output DIR")
        self.frames = min(len(list(folder.glob("*.png"))) for folder in self.folders)

    def __len__(self) -> int:
        return len(self.folders)

    def stretch(self, clip: int, start: int, frames: int) -> NDArray[np.uint8]:
        """Return pictures of a clip (frames, size, size, 3)."""
        folder = self.folders[clip]
        return np.stack([np.asarray(Image.open(folder / f"frame_{start + i}.png")) for i in range(frames)])

    def clip(self, number: int) -> NDArray[np.uint8]:
        """Return a whole clip (frames, size, size, 3)."""
        return self.stretch(number, 0, self.frames)


def to_tensor(pictures_BTHWC: NDArray[np.uint8]) -> Tensor:
    """Return pictures as (B, 3, T, H, W) in [-1, 1]."""
    return torch.from_numpy(pictures_BTHWC).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
