"""Write the pictures of a video to encoded segments of a render folder, and to PNG files where they are asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from avatarctl import durable
from avatarctl.render import pngs
from avatarctl.render.folder import RenderFolder
from avatarctl.render.guard import guarded
from avatarctl.render.segment import SegmentWriter
from avatarctl.settings.formats import VideoFormat
from avatarctl.settings.render import RenderSettings


def segment_file(index: int, video: VideoFormat) -> str:
    """Return the name of an encoded segment."""
    return f"segments/{index:06d}{video.segment_suffix}"


class Encoding:
    """Writes one segment after the other: begin it, add its pictures, end it. A segment is there when it is whole."""

    def __init__(self, folder: RenderFolder, settings: RenderSettings, video: VideoFormat, png: Path | None) -> None:
        self._folder, self._settings, self._video, self._png = folder, settings, video, png
        self._writer: SegmentWriter | None = None
        self._part = Path()
        self._first = 0
        if png is not None:
            pngs.sweep(folder, png)

    def is_there(self, segment: int, pictures: range) -> bool:
        """Return whether a segment is there as it was written, with its PNG files where they are asked for."""
        whole = self._folder.valid(segment_file(segment, self._video))
        return whole and (self._png is None or all(self._png_file(picture).is_file() for picture in pictures))

    def begin(self, segment: int, pictures: range) -> None:
        """Begin a segment that will hold these pictures of the video."""
        self._part, self._first = self._folder.new_part(segment_file(segment, self._video)), pictures.start
        if self._png is not None:
            with guarded(self._png):
                pngs.reserve(self._folder, self._png, pictures.stop)
        settings = self._settings
        self._writer = SegmentWriter(self._part, *settings.size, settings.fps, self._video, settings.enlarge)

    def add(self, pictures_THWC: NDArray[np.uint8]) -> None:
        """Add the next pictures, uint8 RGB."""
        assert self._writer is not None
        if self._png is not None:
            self._save_png(self._first + self._writer.pictures, pictures_THWC)
        self._writer.write(pictures_THWC)

    def end(self, segment: int) -> None:
        """Take the finished segment into the render."""
        assert self._writer is not None
        writer, self._writer = self._writer, None
        writer.close()
        self._folder.adopt(self._part, segment_file(segment, self._video))

    def drop(self) -> None:
        """Give up the segment that is being written."""
        if self._writer is not None:
            self._writer.kill()
            self._part.unlink(missing_ok=True)

    def _png_file(self, picture: int) -> Path:
        assert self._png is not None
        return self._png / pngs.name_of(picture)

    def _save_png(self, first: int, pictures: NDArray[np.uint8]) -> None:
        assert self._png is not None
        with guarded(self._png):
            for offset, picture in enumerate(pictures):
                with durable.beside(self._png_file(first + offset)) as part:
                    Image.fromarray(picture).save(part, format="PNG")
