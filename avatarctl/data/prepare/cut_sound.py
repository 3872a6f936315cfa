"""Write the sound of a clip: the samples of exactly its pictures, moved to its lips."""

from __future__ import annotations

import wave
from fractions import Fraction
from pathlib import Path

import numpy as np

from avatarctl.audio.track import SoundTrack
from avatarctl.data.prepare.scan import FPS

FULL_SCALE = 32768  # as decoders have it: what was recorded with 16 bits comes out bit for bit


def write_sound(target: Path, track: SoundTrack, start: int, end: int, moved_s: float) -> None:
    """Write the samples of pictures ``start`` to ``end``, 16 bits; what the footage lacks at its ends is silence.

    ``moved_s``: by how many seconds lips come after the sound, which is moved by as much.
    """
    begin_s, end_s = Fraction(start) / FPS, Fraction(end) / FPS
    moved = round(moved_s * track.rate_hz)
    first, last = round(begin_s * track.rate_hz) - moved, round(end_s * track.rate_hz) - moved
    with wave.open(str(target), "wb") as file:
        file.setnchannels(track.channels)
        file.setsampwidth(2)
        file.setframerate(track.rate_hz)

        def silence(count: int) -> None:
            file.writeframes(np.zeros((max(count, 0), track.channels), "<i2").tobytes())

        silence(-first)
        written = max(-first, 0)
        if last > max(first, 0):
            for block_TC in track.blocks(max(first, 0), min(last, track.samples) - max(first, 0)):
                file.writeframes(
                    np.rint(block_TC * FULL_SCALE).clip(-FULL_SCALE, FULL_SCALE - 1).astype("<i2").tobytes()
                )
                written += len(block_TC)
        silence(last - first - written)
