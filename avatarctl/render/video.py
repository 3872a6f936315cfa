"""Read a finished video and say what is in it: codecs, size, every picture and every sample counted."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from avatarctl.errors import AvatarError
from avatarctl.render.ffmpeg import check, start
from avatarctl.settings.values import parse_fps


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
    process = start(["-i", f"file:{path}", "-map", "0:v:0", "-c", "copy", "-f", "framecrc", "-"], level="info")
    rows, log = process.communicate()
    check(process.returncode, log)
    text = log.decode(errors="replace")
    video = re.search(r"Video: (\w+)[^,]*(?:\([^)]*\))*, (\w+)(?:\([^)]*\))?, (\d+)x(\d+).*?, ([\d.]+) fps", text)
    if video is None:
        raise AvatarError(f"{path}: got no picture track, expected a video")
    times = [line.split(b",") for line in rows.splitlines() if not line.startswith(b"#")]
    base = re.search(rb"#tb 0: (\d+)/(\d+)", rows)
    assert base is not None
    unit = Fraction(int(base[1]), int(base[2]))
    length = max(int(t[2]) + int(t[3]) for t in times) * unit
    # Matroska rounds time stamps to milliseconds: there the rate stands in the header alone.
    fps = parse_fps(video[5]) if unit == Fraction(1, 1000) else Fraction(len(times)) / length
    sound = re.search(r"Audio: (\w+).*?, (\d+) Hz, ([^,]+)", text)
    audio_s = 0.0
    if sound is not None:
        process = start(["-i", f"file:{path}", "-map", "0:a:0", "-c:a", "pcm_s16le", "-f", "framecrc", "-"])
        rows, log = process.communicate()
        check(process.returncode, log)
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
