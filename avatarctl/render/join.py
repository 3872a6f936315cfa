"""Join segments to one video without encoding them again, with the sound of the recording beside them."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from avatarctl.audio.decode import AudioInfo
from avatarctl.render.ffmpeg import BITEXACT, check, start
from avatarctl.settings.formats import VideoFormat

AUDIO_KBIT_S_PER_CHANNEL = 96  # and 192 for one channel
# What a player needs to begin and to seek stands at the front.
FASTSTART, CUES = ("-movflags", "+faststart"), ("-cues_to_front", "1")
PLAYS_WHILE_LOADING = {"mp4": FASTSTART, "mov": FASTSTART, "matroska": CUES, "webm": CUES}


def join(segments: list[Path], target: Path, sound: Sound | None, video: VideoFormat) -> None:
    """Join segments without encoding again, with the original sound beside them, into a video at ``target``.

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
        rate = () if video.sound.startswith("pcm") else ("-b:a", bit_rate)
        command += ["-af", sound.filter(), "-c:a", video.sound, *rate]
    else:
        command += ["-map", "0:v:0"]
    command += ["-c:v", "copy", *PLAYS_WHILE_LOADING.get(video.container.muxer, ()), *BITEXACT]
    command += ["-f", video.container.muxer, "-y", f"file:{target.absolute()}"]
    process = start(command, folder=segments[0].parent)
    _, log = process.communicate(listing.encode())
    check(process.returncode, log)


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
