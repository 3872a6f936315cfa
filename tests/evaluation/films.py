"""Test helper: videos of a face that speaks a known voice, drawn or photographed, with faults that are made on purpose."""

from __future__ import annotations

import subprocess
import wave
from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
from scenes import photograph

from avatarctl.audio.source import ffmpeg
from avatarctl.paths import embedded_avatar
from avatarctl.puppet.mouth import mouth_from_audio
from avatarctl.puppet.world.identity import Identity, Pose
from avatarctl.puppet.world.portrait import Portrait

RATE = 16_000
FPS = Fraction(25)
CORNER, SIDE = (90, 10), 256  # of the part of the photograph that is shown
MOUTH = (224, 148, 17)  # middle of the astronaut's mouth (x, y between the lips), half its width


@cache
def voice(seconds: float = 16) -> np.ndarray:
    """Return the shipped avatar's voice at 16 kHz, again and again with other pauses, so many seconds."""
    with wave.open(str(embedded_avatar() / "samples" / "voice.wav")) as file:
        assert file.getframerate() == RATE
        once = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
    chance, parts = np.random.default_rng(7), []
    while sum(map(len, parts)) < seconds * RATE:
        words = np.array_split(once, 12)
        parts += [*(words[each] for each in chance.permutation(12)), np.zeros(int(chance.uniform(0.4, 1.2) * RATE))]
    whole = np.concatenate(parts)[: round(seconds * RATE)]
    return np.asarray(whole, np.float32)


def openings(sound: np.ndarray, pictures: int, fps: Fraction = FPS) -> np.ndarray:
    """Return how far a mouth that follows a voice is open, 0 … 1, without any lag."""
    return mouth_from_audio(sound, pictures, fps, 1.0)[0]


def shifted(sound: np.ndarray, seconds: float) -> np.ndarray:
    """Return a sound that comes so many seconds later; earlier when negative. As long as before."""
    count = round(abs(seconds) * RATE)
    quiet = np.zeros(count, np.float32)
    return np.concatenate([quiet, sound])[: len(sound)] if seconds > 0 else np.concatenate([sound[count:], quiet])


def drawn(mouth: Iterable[float], seed: int = 0, size: int = 256, sway: float = 0.012) -> Iterator[np.ndarray]:
    """Return pictures of a drawn person who moves its head a little."""
    portrait = Portrait.of(Identity.of(seed), size)
    for number, opening in enumerate(mouth):
        turn = np.sin(number / 23)
        yield portrait.picture(Pose(opening=float(opening), x=sway * turn, y=sway / 2 * np.sin(number / 31)))


def photographed(mouth: Iterable[float], sway: int = 12) -> Iterator[np.ndarray]:
    """Return pictures of the astronaut, moved about, with a mouth that opens: the chin goes down, the gap is dark."""
    whole = photograph()
    for number, opening in enumerate(mouth):
        x = CORNER[0] + round(sway * np.sin(number / 23))
        y = CORNER[1] + round(sway / 2 * (1 + np.sin(number / 31)))
        yield open_mouth(whole, float(opening))[y : y + SIDE, x : x + SIDE]


def open_mouth(whole: np.ndarray, opening: float, most: float = 9) -> np.ndarray:
    """Return the astronaut with an open mouth: ``most`` pixels at 1."""
    middle, line, half = MOUTH
    picture = whole.copy()
    for x in range(middle - half + 1, middle + half):
        gap = most * opening * np.sqrt(1 - ((x - middle) / half) ** 2)
        rows = np.arange(line, line + 70)
        fade = np.clip((rows[-1] - rows) / 45, 0, 1)
        source = rows - gap * fade
        below = np.clip(source, 0, len(whole) - 2)
        part = below - below.astype(int)
        column = whole[:, x].astype(np.float64)
        moved = column[below.astype(int)] * (1 - part[:, None]) + column[below.astype(int) + 1] * part[:, None]
        inside = np.clip(line + gap - rows, 0, 1)[:, None]
        picture[rows, x] = np.clip(moved * (1 - inside) + np.array([48.0, 20.0, 20.0]) * inside, 0, 255).astype(
            np.uint8
        )
    return picture


def write_film(
    path: Path, pictures: Iterable[np.ndarray], sound: np.ndarray | None, fps: Fraction = FPS, crf: int = 16
) -> Path:
    """Write a video with lossless sound, or none."""
    pictures = iter(pictures)
    first = next(pictures)
    height, width = first.shape[:2]
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "pipe:0"]
    output = ["-c:v", "libx264", "-preset", "veryfast", "-crf", str(crf), "-pix_fmt", "yuv420p"]
    if sound is not None:
        raw = path.with_suffix(".f32")
        sound.astype("<f4").tofile(raw)
        source += ["-f", "f32le", "-ar", str(RATE), "-ac", "1", "-i", str(raw)]
        output += ["-c:a", "pcm_s16le" if path.suffix in (".mkv", ".mov") else "aac"]
    command = [ffmpeg(), "-v", "error", "-nostdin", "-y", *source, *output, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(first.tobytes())
        for picture in pictures:
            process.stdin.write(np.ascontiguousarray(picture).tobytes())
        process.stdin.close()
        assert process.wait() == 0
    if sound is not None:
        raw.unlink()
    return path
