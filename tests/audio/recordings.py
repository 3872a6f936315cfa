"""Make recordings of many kinds with ffmpeg, whose sound at every time is known."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

RATE_HZ = 16_000  # of what is compared
# Ending, the encoders tried in it; with pictures: their encoder.
SOUND_ALONE = {
    "wav": ("pcm_s16le", "pcm_u8", "pcm_s24le", "pcm_f32le", "pcm_mulaw", "adpcm_ima_wav"),
    "w64": ("pcm_s16le",),
    "aiff": ("pcm_s16be",),
    "au": ("pcm_s16be",),
    "caf": ("pcm_s16be", "alac"),
    "flac": ("flac",),
    "wv": ("wavpack",),
    "tta": ("tta",),
    "mp3": ("libmp3lame",),
    "mp2": ("mp2",),
    "m4a": ("aac", "alac"),
    "aac": ("aac",),
    "ac3": ("ac3",),
    "ogg": ("libvorbis", "libopus", "flac"),
    "opus": ("libopus",),
    "mka": ("aac", "libopus", "flac", "pcm_s16le"),
    "wma": ("wmav2",),
}
WITH_PICTURES = {
    "mp4": ("mpeg4", ("aac", "alac", "ac3", "libopus", "flac", "libmp3lame")),
    "mov": ("mpeg4", ("pcm_s16le", "aac", "alac")),
    "mkv": ("mpeg4", ("aac", "libopus", "flac", "pcm_s16le", "libvorbis", "libmp3lame", "ac3")),
    "webm": ("libvpx", ("libopus", "libvorbis")),
    "avi": ("mpeg4", ("pcm_s16le", "libmp3lame", "ac3")),
    "ts": ("mpeg2video", ("aac", "mp2", "libmp3lame", "ac3")),
    "flv": ("flv", ("aac", "libmp3lame")),
    "3gp": ("mpeg4", ("aac",)),
}
STAMPED = ("mp4", "mov", "mkv", "webm", "ts", "flv")  # where packets that are left out leave a hole
TOLD_DELAY = ("mp4", "mov", "mkv", "webm")  # where the encoder's delay is told, and so are offsets
JOINABLE = ("mp3", "ogg", "flac", "wav")
RATES = {"libopus": (48000,), "ac3": (32000, 44100, 48000), "mp2": (16000, 24000, 44100), "wmav2": (22050, 44100)}
MOST_CHANNELS = {"libmp3lame": 2, "mp2": 2, "adpcm_ima_wav": 2, "wmav2": 2, "pcm_mulaw": 2}


@dataclass(frozen=True)
class Recording:
    """How a recording is made: ``offset_s`` of its sound against its pictures, packets ``hole`` left out, ``joins``."""

    ending: str
    codec: str
    rate_hz: int = 44100
    channels: int = 1
    pictures: bool = False
    offset_s: float = 0.0
    hole: tuple[int, int] | None = None
    joined: bool = False
    changes: bool = False
    """The second one of those joined has another rate and other channels."""
    seconds: float = 2.0
    seed: int = 0


def voice(seconds: float, seed: int = 0, rate_hz: int = RATE_HZ) -> NDArray[np.float32]:
    """Return noise of the band of speech that never repeats, swelling and fading: every place in it can be found."""
    count = round(seconds * rate_hz)
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(count))
    hertz = np.fft.rfftfreq(count, 1 / rate_hz)
    spectrum[(hertz < 200) | (hertz > 3000)] = 0
    noise_T = np.fft.irfft(spectrum, count)
    return (0.2 * noise_T / noise_T.std() * (1.2 + np.sin(np.arange(count) * 9 / rate_hz)) / 2.2).astype(np.float32)


def run(*arguments: object, given: bytes | None = None) -> bytes:
    """Run ffmpeg; return its output."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *map(str, arguments)]
    return subprocess.run(command, input=given, check=True, capture_output=True).stdout


def make(folder: Path, recording: Recording) -> Path:
    """Make a recording in ``folder``; return its path."""
    target = folder / f"recording.{recording.ending}"
    if recording.joined:
        parts = [folder / f"part{place}.{recording.ending}" for place in range(2)]
        first = round(recording.seconds / 2 * RATE_HZ)
        whole = voice(recording.seconds, recording.seed)
        changed = (22050, 1) if recording.changes else (recording.rate_hz, recording.channels)
        _encode(parts[0], recording, whole[:first], recording.rate_hz, recording.channels)
        _encode(parts[1], recording, whole[first:], *changed)
        target.write_bytes(b"".join(part.read_bytes() for part in parts))
        return target
    _encode(target, recording, voice(recording.seconds, recording.seed), recording.rate_hz, recording.channels)
    if recording.hole is not None:
        whole = target.rename(folder / f"whole.{recording.ending}")
        first, last = recording.hole
        run("-i", whole, "-map", 0, "-c", "copy", "-bsf:a", f"noise=drop=between(n\\,{first}\\,{last})", target)
    return target


def _encode(target: Path, recording: Recording, sound_T: NDArray[np.float32], rate_hz: int, channels: int) -> None:
    source = []
    if recording.pictures:
        source += ["-f", "lavfi", "-i", f"testsrc=r=25:d={recording.seconds + recording.offset_s}:s=32x32"]
    if recording.offset_s:
        source += ["-itsoffset", recording.offset_s]
    samples = target.with_name("samples.wav")
    run(
        "-f",
        "f32le",
        "-ar",
        RATE_HZ,
        "-ac",
        1,
        "-i",
        "pipe:0",
        "-c:a",
        "pcm_f32le",
        samples,
        given=sound_T.astype("<f4").tobytes(),
    )
    source += ["-i", samples]
    output = ["-c:a", recording.codec, "-ar", rate_hz, "-ac", channels, "-strict", "-2"]
    if recording.pictures:
        output += ["-map", "1:a", "-map", "0:v", "-c:v", WITH_PICTURES[recording.ending][0]]
    run(*source, *output, target)


def played(path: Path) -> NDArray[np.float32]:
    """Return the first channel of a file's sound at 16 kHz as a player plays it: silence where stamps leave a hole."""
    clock = "aresample=async=1:first_pts=0,pan=mono|c0=c0"
    data = run("-i", f"file:{path}", "-map", "0:a:0", "-af", clock, "-ar", RATE_HZ, "-f", "f32le", "-")
    return np.frombuffer(data, "<f4")


def worst_lag_s(heard: NDArray[np.float32], there: NDArray[np.float32], stretch_s: float = 0.25) -> float:
    """Return the largest time by which stretches of ``heard`` come later in ``there`` (or earlier: negative)."""
    worst, reach, count = 0.0, RATE_HZ, round(stretch_s * RATE_HZ)
    for first in range(0, len(heard) - count + 1, count):
        part = heard[first : first + count]
        if np.sqrt(np.mean(part**2)) < 0.01:
            continue
        low = max(first - reach, 0)
        around = there[low : first + count + reach]
        if len(around) < count:
            return float("inf")
        size = 1 << (len(around) + count).bit_length()
        product = np.fft.irfft(np.fft.rfft(around, size) * np.conj(np.fft.rfft(part, size)), size)
        product = product[: len(around) - count + 1]
        energy = np.concatenate([[0.0], np.cumsum(around.astype(np.float64) ** 2)])
        alike = product / np.sqrt((energy[count:] - energy[:-count]) * np.sum(part**2, dtype=np.float64) + 1e-9)
        place = int(alike.argmax())
        if alike[place] > 0.5:
            lag_s = (place + low - first) / RATE_HZ
            worst = lag_s if abs(lag_s) > abs(worst) else worst
    return worst
