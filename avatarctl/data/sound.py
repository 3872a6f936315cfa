"""Decode the sound of a file of any length beside its pictures, and read any stretch of it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from avatarctl import durable
from avatarctl.audio.decode import long_enough, write_track
from avatarctl.audio.track import SoundTrack, Through, write_heard
from avatarctl.sampling.windows import sample_of


@dataclass(frozen=True)
class Heard:
    """What lips hear of a recording: ``waveform_T`` at 16 kHz, read from disk where it is needed."""

    waveform_T: NDArray[np.float32]

    @property
    def count(self) -> int:
        """Return the number of samples."""
        return len(self.waveform_T)

    def of_pictures(self, start: int, pictures: int, fps: Fraction, heard: int | None = None) -> NDArray[np.float32]:
        """Return the samples of exactly these pictures, with silence past the end, and past ``heard`` pictures."""
        first, last = sample_of(start, fps), sample_of(start + pictures, fps)
        samples = np.zeros(last - first, np.float32)
        known = self.waveform_T[first : last if heard is None else sample_of(start + heard, fps)]
        samples[: len(known)] = known
        return samples


@contextmanager
def decoded_sound(path: Path, through: Through | None = None) -> Iterator[Heard]:
    """Decode what lips hear of a recording of any length into a temporary file; ``through`` as in ``write_heard``."""
    with _temporary() as folder:
        track = write_track(path, folder / "track.f32")
        target = folder / "sound.f32"
        long_enough(path, write_heard(track, target, through=through))
        waveform_T = np.memmap(target, "<f4", "r")
    yield Heard(waveform_T)  # its name is gone already: a kill leaves nothing behind


@contextmanager
def decoded_track(path: Path, through: Through | None = None) -> Iterator[SoundTrack]:
    """Decode a recording of any length as it is into a temporary file, or what ``through`` makes of it."""
    with _temporary() as folder:
        track = write_track(path, folder / "track.f32")
        if through is not None:
            rate_hz, blocks = through(track.rate_hz, track.heard())
            channels, total = 2, 0
            with (folder / "voice.f32").open("wb") as file:
                for block_TC in blocks:
                    file.write(np.ascontiguousarray(block_TC, "<f4").data)
                    channels, total = block_TC.shape[1], total + len(block_TC)
            (folder / "track.f32").unlink()
            track = SoundTrack(folder / "voice.f32", rate_hz, channels, "", total, (), (), 0.0, None)
        yield track


def separation(separator: Path) -> Through:
    """Return what takes the voice out of blocks of sound, with a separator's network."""
    from avatarctl.audio.vocals import Separator, voice_alone

    network = Separator(separator)
    return lambda rate_hz, blocks: voice_alone(network, rate_hz, blocks)


@contextmanager
def _temporary() -> Iterator[Path]:
    place = Path(tempfile.gettempdir())
    guard = durable.guarded(
        place, full="free some space there, or name another place: TMPDIR=…", elsewhere="set TMPDIR"
    )
    with guard, tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
