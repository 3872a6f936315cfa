"""Decode final latents into encoded segments (and PNG files) so that a decode resumes exactly.

Segment ``s`` holds the pictures of latent frames ``s * K`` … ``(s + 1) * K - 1``. A decode begun anew is fed the latent
frames before the segment that the decoder's causal convolutions remember (``decoder_warmup``), so pictures don't change.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from avatarctl import durable
from avatarctl.networks.tiling import Tiling
from avatarctl.networks.vae import DecodeStream, decoder_warmup
from avatarctl.render import pngs
from avatarctl.render.finite import require_finite_pictures
from avatarctl.render.folder import RenderFolder
from avatarctl.render.guard import guarded
from avatarctl.render.segment import SegmentWriter
from avatarctl.sampling.denoise import Final
from avatarctl.sampling.windows import PER_LATENT, Plan, pictures_of
from avatarctl.settings.formats import VideoFormat
from avatarctl.settings.render import RenderSettings


def window_file(index: int) -> str:
    """Return the name of the final latents of a window's stride."""
    return f"windows/{index:06d}.safetensors"


def segment_file(index: int, video: VideoFormat) -> str:
    """Return the name of an encoded segment."""
    return f"segments/{index:06d}{video.segment_suffix}"


def save_final(folder: RenderFolder, final: Final) -> None:
    """Write the final latents of one stride."""
    folder.write_tensors(window_file(final.window), {"latents": final.latents.cpu()})


class Frames:
    """Decodes and encodes segments in order; the decoder's memory lives on from one segment to the next."""

    def __init__(
        self,
        folder: RenderFolder,
        plan: Plan,
        settings: RenderSettings,
        vae: object,
        tiling: Tiling | None,
        png: Path | None,
        video: VideoFormat,
    ) -> None:
        self._folder, self._plan, self._settings, self._video = folder, plan, settings, video
        self._vae, self._tiling, self._png = vae, tiling, png
        self._warmup = decoder_warmup(vae)
        self._stream: DecodeStream | None = None
        self._next = 0  # latent frame that the stream expects
        self._loaded: tuple[int, Tensor] | None = None
        if png is not None:
            pngs.sweep(folder, png)

    @property
    def count(self) -> int:
        """The number of segments."""
        return -(-self._last_needed() // self._settings.segment_latent_frames)

    def span(self, segment: int) -> tuple[int, int]:
        """Return the first latent frame of a segment and the one after its last."""
        length = self._settings.segment_latent_frames
        return segment * length, min((segment + 1) * length, self._last_needed())

    def missing(self) -> list[int]:
        """Return the segments that are not there as they were written, in order (or whose PNG files are asked for and lack)."""
        return [
            s for s in range(self.count) if not (self._folder.valid(segment_file(s, self._video)) and self._has_png(s))
        ]

    def needed_windows(self, segment: int) -> range:
        """Return the windows whose final latents a decode begun at this segment reads."""
        start, stop = self.span(segment)
        return range(self._plan.owner(max(start - self._warmup, 0)), self._plan.owner(stop - 1) + 1)

    def write_segment(self, segment: int, after_each: Callable[[int], None] = lambda _: None) -> None:
        """Decode and encode one segment from the final latents in the folder.

        ``after_each`` hears after each latent frame how many pictures of the video are there.
        """
        start, stop = self.span(segment)
        stream = self._at(start)
        first = self._first_picture(start)
        name = segment_file(segment, self._video)
        part = self._folder.new_part(name)
        if self._png is not None:
            with guarded(self._png):
                pngs.reserve(self._folder, self._png, min(pictures_of(stop), self._plan.video_frames))
        settings = self._settings
        with SegmentWriter(part, *settings.size, settings.fps, self._video, settings.enlarge) as writer:
            for pixels in stream.run(map(self._latents, range(start, stop))):
                require_finite_pictures(pixels, segment)
                pictures = to_pictures(pixels)
                pictures = pictures[: self._plan.video_frames - first - writer.pictures]
                if self._png is not None:
                    self._save_png(first + writer.pictures, pictures)
                writer.write(pictures)
                after_each(first + writer.pictures)
        self._next = stop
        stream.rest()
        self._folder.adopt(part, name)

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

    def _has_png(self, segment: int) -> bool:
        if self._png is None:
            return True
        start, stop = self.span(segment)
        pictures = range(self._first_picture(start), min(pictures_of(stop), self._plan.video_frames))
        return all(self._png_file(picture).is_file() for picture in pictures)

    def _png_file(self, picture: int) -> Path:
        assert self._png is not None
        return self._png / pngs.name_of(picture)

    @staticmethod
    def _first_picture(start: int) -> int:
        return pictures_of(start) if start else 0

    def _save_png(self, first: int, pictures: NDArray[np.uint8]) -> None:
        assert self._png is not None
        with guarded(self._png):
            for offset, picture in enumerate(pictures):
                with durable.beside(self._png_file(first + offset)) as part:
                    Image.fromarray(picture).save(part, format="PNG")


def to_pictures(pixels_1CTHW: Tensor) -> NDArray[np.uint8]:
    """Return pictures (T, H, W, 3), uint8 RGB, of decoded pixels in [-1, 1]."""
    scaled = ((pixels_1CTHW[0].float() + 1) * 127.5).round().clamp(0, 255)
    return scaled.permute(1, 2, 3, 0).byte().cpu().numpy()
