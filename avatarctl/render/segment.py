"""Encode pictures to one segment of the video with ffmpeg; the bytes depend on pictures and settings alone."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from avatarctl.render.ffmpeg import BITEXACT, check, start

# ffmpeg encoder by the name of the format.
CODECS = {"h264": "libx264", "hevc": "libx265"}
# One thread and no version marks: the bytes depend on pictures and settings alone. No B-pictures: segments join without
# gaps in their time stamps, at some 10 % more bytes.
ENCODER = ("-pix_fmt", "yuv420p", "-preset", "medium", "-bf", "0", "-flags", "+cgop", "-threads", "1")


class SegmentWriter:
    """Encode pictures to one segment (MP4 without sound) as they come; the file is complete after a clean exit."""

    def __init__(
        self, target: Path, width: int, height: int, fps: Fraction, codec: str, crf: int, enlarge: int = 1
    ) -> None:
        source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "pipe:0"]
        encode = ["-c:v", CODECS[codec], "-crf", str(crf), *ENCODER]
        if codec == "hevc":
            encode += ["-x265-params", "log-level=error:pools=none:frame-threads=1", "-tag:v", "hvc1"]
        # RGB is converted to limited-range BT.709, and the file says so: players need not guess.
        scale = f"w={width * enlarge}:h={height * enlarge}:flags=lanczos:" if enlarge > 1 else ""
        colour = ["-vf", f"scale={scale}out_color_matrix=bt709:out_range=tv"]
        colour += ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"]
        self._process = start([*source, *colour, *encode, *BITEXACT, "-f", "mp4", "-y", f"file:{target}"])
        self.pictures = 0

    def write(self, pictures_THWC: NDArray[np.uint8]) -> None:
        """Add pictures, uint8 RGB (T, H, W, 3)."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(np.ascontiguousarray(pictures_THWC).data)
        except BrokenPipeError:
            self._finish()
            raise
        self.pictures += len(pictures_THWC)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._process.kill()
            self._process.communicate()
            return
        self._finish()

    def _finish(self) -> None:
        _, log = self._process.communicate()
        check(self._process.returncode, log)
