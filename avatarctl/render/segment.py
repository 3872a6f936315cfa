"""Encode pictures to one segment of the video with ffmpeg; the bytes depend on pictures and settings alone."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from avatarctl.render.ffmpeg import BITEXACT, check, start
from avatarctl.settings.formats import VideoFormat

# One thread and no version marks: the bytes depend on pictures and settings alone. No B-pictures: segments join without
# gaps in their time stamps, at some 10 % more bytes. (vp9 and av1 have none that reorder pictures in the file.)
X26X = ("-pix_fmt", "yuv420p", "-preset", "medium", "-bf", "0", "-flags", "+cgop", "-threads", "1")
VP9 = ("-deadline", "good", "-cpu-used", "4", "-row-mt", "0", "-threads", "1")
# ffmpeg's encoder and its options by the name of the codec. vp9 and av1 take two to four times as long as h264.
ENCODERS = {
    "h264": ("libx264", *X26X),
    "hevc": ("libx265", *X26X, "-x265-params", "log-level=error:pools=none:frame-threads=1", "-tag:v", "hvc1"),
    "vp9": ("libvpx-vp9", "-pix_fmt", "yuv420p", "-b:v", "0", *VP9),
    "av1": ("libsvtav1", "-pix_fmt", "yuv420p", "-preset", "6", "-svtav1-params", "lp=1", "-threads", "1"),
    # 422, ten bits; studios' programs look for Apple as the vendor.
    "prores": ("prores_ks", "-pix_fmt", "yuv422p10le", "-profile:v", "standard", "-vendor", "apl0", "-threads", "1"),
}


class SegmentWriter:
    """Encode pictures to one segment (MP4 or MOV without sound) as they come; the file is complete after a clean exit."""

    def __init__(
        self, target: Path, width: int, height: int, fps: Fraction, video: VideoFormat, enlarge: int = 1
    ) -> None:
        source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "pipe:0"]
        encoder, *options = ENCODERS[video.codec]
        encode = ["-c:v", encoder, *(() if video.crf is None else ("-crf", str(video.crf))), *options]
        # RGB is converted to limited-range BT.709, and the file says so: players need not guess.
        scale = f"w={width * enlarge}:h={height * enlarge}:flags=lanczos:" if enlarge > 1 else ""
        marks = "" if video.codec in ("h264", "hevc") else ",setparams=color_primaries=bt709:color_trc=bt709"
        colour = ["-vf", f"scale={scale}out_color_matrix=bt709:out_range=tv{marks}"]
        colour += ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"]
        self._process = start(
            [*source, *colour, *encode, *BITEXACT, "-f", video.segment_suffix[1:], "-y", f"file:{target}"]
        )
        self.pictures = 0

    def write(self, pictures_THWC: NDArray[np.uint8]) -> None:
        """Add pictures, uint8 RGB (T, H, W, 3)."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(np.ascontiguousarray(pictures_THWC).data)
        except BrokenPipeError:
            self.close()
            raise
        self.pictures += len(pictures_THWC)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.kill()
        else:
            self.close()

    def kill(self) -> None:
        """Give up; what is in the file is of no use."""
        self._process.kill()
        self._process.communicate()

    def close(self) -> None:
        """Complete the file; raises the error of an encoder that failed."""
        _, log = self._process.communicate()
        check(self._process.returncode, log)
