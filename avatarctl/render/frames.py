"""Decode final latents into the pictures of segments so that a decode resumes exactly.

Segment ``s`` holds the pictures of latent frames ``s * K`` … ``(s + 1) * K - 1``. A decode begun anew is fed the latent
frames before the segment that the decoder's causal convolutions remember (``decoder_warmup``), so pictures don't change.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from avatarctl.networks.tiling import Tiling
from avatarctl.networks.vae import DecodeStream, decoder_warmup
from avatarctl.render.finite import require_finite_pictures
from avatarctl.render.folder import RenderFolder
from avatarctl.sampling.denoise import Final
from avatarctl.sampling.windows import PER_LATENT, Plan, pictures_of


def window_file(index: int) -> str:
    """Return the name of the final latents of a window's stride."""
    return f"windows/{index:06d}.safetensors"


def save_final(folder: RenderFolder, final: Final) -> None:
    """Write the final latents of one stride."""
    folder.write_tensors(window_file(final.window), {"latents": final.latents.cpu()})


class Frames:
    """Decodes segments of ``length`` latent frames in order; the decoder's memory lives on from one segment to the next.

    Between segments it ``rests`` in main memory where the transformer needs its room.
    """

    def __init__(
        self, folder: RenderFolder, plan: Plan, length: int, vae: object, tiling: Tiling | None, rests: bool
    ) -> None:
        self._folder, self._plan, self._length = folder, plan, length
        self._vae, self._tiling, self._rests = vae, tiling, rests
        self._warmup = decoder_warmup(vae)
        self._stream: DecodeStream | None = None
        self._next = 0  # latent frame that the stream expects
        self._loaded: tuple[int, Tensor] | None = None

    @property
    def count(self) -> int:
        """The number of segments."""
        return -(-self._last_needed() // self._length)

    def pictures_of(self, segment: int) -> range:
        """Return which pictures of the video a segment holds."""
        start, stop = self._span(segment)
        return range(pictures_of(start) if start else 0, min(pictures_of(stop), self._plan.video_frames))

    def needed_windows(self, segment: int) -> range:
        """Return the windows whose final latents a decode begun at this segment reads."""
        start, stop = self._span(segment)
        return range(self._plan.owner(max(start - self._warmup, 0)), self._plan.owner(stop - 1) + 1)

    def decode(self, segment: int) -> Iterator[NDArray[np.uint8]]:
        """Return the pictures (T, H, W, 3), uint8 RGB, of each latent frame of a segment, from the latents in the folder."""
        start, stop = self._span(segment)
        stream = self._at(start)
        self._next = -1  # until the last one is decoded, it stands in the middle of a segment
        left = len(self.pictures_of(segment))
        for pixels in stream.run(map(self._latents, range(start, stop))):
            require_finite_pictures(pixels, segment)
            pictures = to_pictures(pixels)[:left]
            left -= len(pictures)
            yield pictures
        self._next = stop
        if self._rests:
            stream.rest()

    def _span(self, segment: int) -> tuple[int, int]:
        """Return the first latent frame of a segment and the one after its last."""
        return segment * self._length, min((segment + 1) * self._length, self._last_needed())

    def _at(self, start: int) -> DecodeStream:
        """Return a stream that stands before ``start``: the one that runs, or a new one that is warmed up."""
        if self._stream is None or self._next != start:
            self._stream = DecodeStream(self._vae, self._tiling)
            for _ in self._stream.run(map(self._latents, range(max(start - self._warmup, 0), start))):
                pass
        return self._stream

    def _latents(self, frame: int) -> Tensor:
        owner = self._plan.owner(frame)
        if self._loaded is None or self._loaded[0] != owner:
            tensors = self._folder.read_tensors(window_file(owner))
            assert tensors is not None, "the caller made sure that these latents are final and whole"
            self._loaded = (owner, tensors["latents"])
        offset = frame - self._plan.start_of(owner)
        return self._loaded[1][:, :, offset : offset + 1]

    def _last_needed(self) -> int:
        # Latents past the last picture (a recording shorter than a window) are not decoded.
        return min(-(-(self._plan.video_frames - 1) // PER_LATENT) + 1, self._plan.latent_frames)


def to_pictures(pixels_1CTHW: Tensor) -> NDArray[np.uint8]:
    """Return pictures (T, H, W, 3), uint8 RGB, of decoded pixels in [-1, 1]."""
    scaled = ((pixels_1CTHW[0].float() + 1) * 127.5).round().clamp(0, 255)
    return scaled.permute(1, 2, 3, 0).byte().cpu().numpy()
