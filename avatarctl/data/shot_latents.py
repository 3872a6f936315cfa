"""Encode a shot's pictures once, as they come: the latents of its windows, which overlap or touch, are cut out of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from avatarctl.data.clips import Window
from avatarctl.networks.vae import TEMPORAL


class ShotLatents:
    """Latents of one clip's windows, which come in order and begin at every fourth picture of their shot.

    A window after the first begins with a latent frame of four pictures that knows those before them, as windows of a long
    video do in generation. Where a shot begins, or a window that doesn't touch the one before, encoding begins too.

    ``begin`` returns what encodes pictures (1, 3, t, H, W) to a latent frame (1, C, 1, H / 8, W / 8): one first, then four.
    """

    def __init__(self, begin: Callable[[], Callable[[Tensor], Tensor]]) -> None:
        self._begin = begin
        self._encode: Callable[[Tensor], Tensor] = begin()
        self._shot, self._first, self._count = -1, 0, 0
        """Shot, its first picture that was encoded, and how many were."""
        self._frames: dict[int, Tensor] = {}

    def of(self, window: Window, pixels_1CTHW: Tensor) -> Tensor:
        """Return the latents (1, C, T, H / 8, W / 8) of a window, given its pictures; those that are new are encoded."""
        if window.shot != self._shot or window.start > self._first + self._count:
            self._encode, self._frames = self._begin(), {}
            self._shot, self._first, self._count = window.shot, window.start, 0
        start = window.start - self._first
        assert start % TEMPORAL == 0, "windows of a whole clip begin at every fourth picture"
        stop = start + pixels_1CTHW.shape[2]
        while self._count < stop:
            length = TEMPORAL if self._count else 1
            place = self._count - start
            frame = (self._count + TEMPORAL - 1) // TEMPORAL
            self._frames[frame] = self._encode(pixels_1CTHW[:, :, place : place + length])
            self._count += length
        first = start // TEMPORAL
        self._frames = {frame: latents for frame, latents in self._frames.items() if frame >= first}
        last = (stop - 1) // TEMPORAL
        return torch.cat([self._frames[frame] for frame in range(first, last + 1)], dim=2)
