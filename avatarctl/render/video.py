"""Encode pictures to segments, and join segments and sound into a video (ffmpeg)."""

from __future__ import annotations

import io
import math
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from avatarctl.audio.decode import AudioInfo, ffmpeg
from avatarctl.errors import AvatarError, DeviceError
from avatarctl.sampling.windows import Plan

# ffmpeg encoder by the name of the format.
CODECS = {"h264": "libx264", "hevc": "libx265"}
# One thread and no version marks: the bytes depend on pictures and settings alone. No B-pictures: segments join without
# gaps in their time stamps, at some 10 % more bytes.
ENCODER = ("-pix_fmt", "yuv420p", "-preset", "medium", "-bf", "0", "-flags", "+cgop", "-threads", "1")
BITEXACT = ("-fflags", "+bitexact", "-flags:v", "+bitexact", "-flags:a", "+bitexact", "-map_metadata", "-1")
AUDIO_KBIT_S_PER_CHANNEL = 96  # and 192 for one channel


class SegmentWriter:
    """Encodes pictures to one segment (MP4 without sound) as they come; the file is complete after a clean exit."""

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
        self._process = _start([*source, *colour, *encode, *BITEXACT, "-f", "mp4", "-y", f"file:{target}"])
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
        _check(self._process.returncode, log)


def join(segments: list[Path], target: Path, sound: Sound | None) -> None:
    """Join segments without encoding again, with the original sound beside them, into an MP4 at ``target``.

    The segments' names must be plain (they are the render folder's own). Sound and picture end together: sound is cut
    or padded with silence to the picture's length, to the sample.
    """
    # Plain names, seen from their folder: no listing can hold every name that a folder may have.
    listing = "ffconcat version 1.0\n" + "".join(f"file 'file:{path.name}'\n" for path in segments)
    source = ["-f", "concat", "-safe", "0", "-protocol_whitelist", "file,pipe,fd", "-i", "pipe:0"]
    command = [*source]
    if sound is not None:
        command += [
            "-protocol_whitelist",
            "file",
            "-i",
            f"file:{sound.path.absolute()}",
            "-map",
            "0:v:0",
            "-map",
            "1:a:0",
        ]
        bit_rate = f"{AUDIO_KBIT_S_PER_CHANNEL * max(sound.info.channels, 2)}k"
        command += ["-af", sound.filter(), "-c:a", "aac", "-b:a", bit_rate]
    else:
        command += ["-map", "0:v:0"]
    command += ["-c:v", "copy", "-movflags", "+faststart", *BITEXACT, "-f", "mp4", "-y", f"file:{target.absolute()}"]
    process = _start(command, folder=segments[0].parent)
    _, log = process.communicate(listing.encode())
    _check(process.returncode, log)


@dataclass(frozen=True)
class Sound:
    """A stretch of the original recording: all channels, its own sample rate, ``duration_s`` from ``start_s`` on.

    ``length_s`` is the picture's: silence fills up what the recording lacks.
    """

    path: Path
    info: AudioInfo
    start_s: Fraction
    duration_s: Fraction
    length_s: Fraction
    gain_db: float = 0.0

    def filter(self) -> str:
        """Return the ffmpeg filter that cuts it to the sample and pads it to the picture."""
        first = round(self.start_s * self.info.rate_hz)
        count = round(self.duration_s * self.info.rate_hz)
        whole = round(self.length_s * self.info.rate_hz)
        gain = f",volume={self.gain_db}dB" if self.gain_db else ""
        return (
            f"atrim=start_sample={first}:end_sample={first + count},asetpts=PTS-STARTPTS{gain},apad=whole_len={whole}"
        )


def contact_sheet(video: Path, target: Path, every_s: float, plan: Plan) -> None:
    """Write a JPEG with one picture per ``every_s`` seconds of a video, each with its time."""
    step = max(round(every_s * plan.fps), 1)
    places = range(0, plan.video_frames, step)
    pictures = [_label(picture, place / plan.fps) for place, picture in zip(places, _every(video, step), strict=False)]
    columns = min(math.ceil(math.sqrt(len(pictures))), 8)
    width, height = pictures[0].size
    rows = math.ceil(len(pictures) / columns)
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    for place, picture in enumerate(pictures):
        sheet.paste(picture, (place % columns * width, place // columns * height))
    sheet.save(target, format="JPEG", quality=90)


THUMBNAIL_PX = 160


def _every(video: Path, step: int) -> Iterator[Image.Image]:
    scale = f"scale='if(gt(iw,ih),{THUMBNAIL_PX},-2)':'if(gt(iw,ih),-2,{THUMBNAIL_PX})'"
    arguments = ["-i", f"file:{video}", "-vf", f"select=not(mod(n\\,{step})),{scale}", "-fps_mode", "passthrough"]
    process = _start([*arguments, "-f", "image2pipe", "-c:v", "png", "-"])
    rows, log = process.communicate()
    _check(process.returncode, log)
    begin = b"\x89PNG\r\n\x1a\n"
    for data in rows.split(begin)[1:]:
        with Image.open(io.BytesIO(begin + data)) as picture:
            yield picture.convert("RGB")


def _label(picture: Image.Image, seconds: Fraction) -> Image.Image:
    draw = ImageDraw.Draw(picture)
    minutes, rest = divmod(float(seconds), 60)
    text = f"{int(minutes)}:{rest:04.1f}"
    draw.rectangle(draw.textbbox((4, 2), text), fill="black")
    draw.text((4, 2), text, fill="white")
    return picture


@dataclass(frozen=True)
class VideoInfo:
    """What a finished file holds, as ffmpeg reads it."""

    codec: str
    pixel_format: str
    width: int
    height: int
    fps: Fraction
    pictures: int
    picture_s: float
    audio_codec: str | None
    audio_rate_hz: int
    audio_channels: str
    audio_s: float


def inspect(path: Path) -> VideoInfo:
    """Read a whole video and say what is in it; counts every picture and every sample."""
    process = _start(["-i", f"file:{path}", "-map", "0:v:0", "-c", "copy", "-f", "framecrc", "-"], level="info")
    rows, log = process.communicate()
    _check(process.returncode, log)
    text = log.decode(errors="replace")
    video = re.search(r"Video: (\w+)[^,]*(?:\([^)]*\))*, (\w+)(?:\([^)]*\))?, (\d+)x(\d+).*?, ([\d.]+) fps", text)
    if video is None:
        raise AvatarError(f"{path}: got no picture track, expected a video")
    times = [line.split(b",") for line in rows.splitlines() if not line.startswith(b"#")]
    base = re.search(rb"#tb 0: (\d+)/(\d+)", rows)
    assert base is not None
    unit = Fraction(int(base[1]), int(base[2]))
    length = max(int(t[2]) + int(t[3]) for t in times) * unit
    fps = Fraction(len(times)) / length
    sound = re.search(r"Audio: (\w+).*?, (\d+) Hz, ([^,]+)", text)
    audio_s = 0.0
    if sound is not None:
        process = _start(["-i", f"file:{path}", "-map", "0:a:0", "-c:a", "pcm_s16le", "-f", "framecrc", "-"])
        rows, log = process.communicate()
        _check(process.returncode, log)
        audio = [line.split(b",") for line in rows.splitlines() if not line.startswith(b"#")]
        audio_s = (int(audio[-1][2]) + int(audio[-1][3])) / int(sound[2]) if audio else 0.0
    return VideoInfo(
        video[1],
        video[2],
        int(video[3]),
        int(video[4]),
        fps,
        len(times),
        float(length),
        sound[1] if sound else None,
        int(sound[2]) if sound else 0,
        sound[3] if sound else "",
        audio_s,
    )


def _start(arguments: list[str], level: str = "error", folder: Path | None = None) -> subprocess.Popen[bytes]:
    command = [
        ffmpeg(),
        "-v",
        level,
        "-hide_banner",
        "-nostats",
        *(() if "pipe:0" in arguments else ("-nostdin",)),
        *arguments,
    ]
    pipe: int | IO[bytes] = subprocess.PIPE if "pipe:0" in arguments else subprocess.DEVNULL
    # A session of its own: Ctrl-C in the terminal is ours to handle.
    return subprocess.Popen(
        command, stdin=pipe, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, cwd=folder
    )


def _check(status: int, log: bytes) -> None:
    if status == 0:
        return
    text = log.decode(errors="replace").strip()
    if "No space left on device" in text:
        raise DeviceError(
            "video: the disk is full", "free some space and run `avatarctl resume`: what is finished is kept"
        )
    lines = text.splitlines()
    raise AvatarError(
        f"video: ffmpeg ended with {status} ({lines[-1] if lines else 'no message'})", "see `avatarctl doctor`"
    )
