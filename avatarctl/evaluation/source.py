"""Open a video to be measured: what its pictures are, and what lips hear, on one clock; say what can't be measured."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from avatarctl.audio import decode
from avatarctl.audio.source import look
from avatarctl.audio.track import SAMPLE_RATE_HZ
from avatarctl.data.clips import Film, Pictures, film_of, stream
from avatarctl.data.discover import PICTURES
from avatarctl.errors import InputFileError

LONGEST_PX = 1280  # longer side at which pictures are looked at: the networks see 256 and 192 pixels of them
MOST_FPS = Fraction(60)


@dataclass(frozen=True)
class Source:
    """A video and the sound that its lips are compared with.

    ``size``: (width, height) at which pictures are looked at. ``waveform``: at 16 kHz, a memory map; None without sound.
    ``offset_s``: how much later than the pictures the video's own sound begins, as its container tells.
    """

    path: Path
    film: Film
    fps: Fraction
    size: tuple[int, int]
    waveform: NDArray[np.float32] | None
    sound_s: float | None
    offset_s: float | None
    notes: tuple[str, ...] = ()

    @property
    def scale(self) -> float:
        """Return how many of the video's pixels one pixel of what is looked at stands for."""
        return self.film.width / self.size[0]

    def pictures(self) -> Pictures:
        """Return the pictures (H, W, 3), RGB, one by one."""
        return stream(self.film, self.size, self.fps)


def check_video(path: Path) -> Film:
    """Look at a video; raises ``InputFileError`` for what is none."""
    if path.is_dir():
        raise InputFileError(
            f"{path}: got a folder, expected a video", f"name the videos in it: avatarctl evaluate {path}/*.mp4"
        )
    if not path.exists():
        raise InputFileError(f"{path}: got no such file, expected a video", "check the path")
    if path.suffix.lower() in PICTURES:
        raise InputFileError(
            f"{path}: got a picture, expected a video",
            f"name the video that it is the reference of: avatarctl evaluate VIDEO --reference {shlex.quote(str(path))}",
        )
    return film_of(path)


@contextmanager
def opened(path: Path, audio: Path | None = None) -> Iterator[Source]:
    """Open a video, and the recording that it is compared with instead of its own sound; the sound lies in a temporary file.

    Raises ``InputFileError`` for what can't be read.
    """
    film = check_video(path)
    notes = [film.colours.note] if film.colours.note else []
    fps = film.fps
    if fps is None:
        fps = Fraction(25)
        notes.append("the video doesn't tell its rate: looked at 25 pictures a second")
    elif fps > MOST_FPS:
        notes.append(f"{float(fps):g} pictures a second: looked at {MOST_FPS} of them")
        fps = MOST_FPS
    with tempfile.TemporaryDirectory(prefix="avatarctl-evaluate-") as folder:
        waveform, sound_s, offset_s = None, None, None
        if audio is not None or film.sound:
            target = Path(folder) / "waveform.f32"
            samples = decode.write_waveform(audio or path, target)
            waveform = np.memmap(target, "<f4", "r")
            sound_s = samples / SAMPLE_RATE_HZ
        if film.sound and audio is None:
            offset_s = _offset_s(path)
        yield Source(path, film, fps, _size(film), waveform, sound_s, offset_s, tuple(notes))


def _size(film: Film) -> tuple[int, int]:
    factor = min(Fraction(LONGEST_PX, max(film.width, film.height)), Fraction(1))
    return max(round(film.width * factor), 1), max(round(film.height * factor), 1)


def _offset_s(path: Path) -> float | None:
    found = look(path, None)
    if found.picture is None:
        return None
    return float((found.track.start_s or 0) - (found.picture.start_s or 0))  # ffmpeg tells a start that isn't zero
