"""Tests that the pictures of a clip and what is heard of it count time from the same instant."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from avatarctl.audio.decode import waveform_16k
from avatarctl.data.clips import film_of, stream

sys.path.append(str(Path(__file__).parents[1] / "audio"))
from recordings import run, voice


@pytest.mark.parametrize("ending", ["mkv", "mp4", "mov", "ts", "mpg", "flv"])
@pytest.mark.parametrize(("pictures_s", "sound_s"), [(0.0, 0.0), (0.0, 0.4), (0.4, 0.0)])
def test_a_flash_and_a_burst_of_the_same_instant_are_in_step(
    tmp_path: Path, ending: str, pictures_s: float, sound_s: float
) -> None:
    """Both are at 1 s of the file: black pictures turn white, and silence turns into noise."""
    sound_T = np.where(np.arange(32000 - round(16000 * sound_s)) < 16000 * (1 - sound_s), 0, voice(2.0)[0:1][0])
    sound_T[round(16000 * (1 - sound_s)) :] = voice(2.0)[:16000]
    wav = tmp_path / "a.wav"
    run("-f", "f32le", "-ar", 16000, "-i", "pipe:0", wav, given=sound_T.astype("<f4").tobytes())
    flash = f"color=white:s=64x64:r=25:d={2 - pictures_s},drawbox=color=black:t=fill:enable='lt(t,{1 - pictures_s})'"
    codecs = {
        "flv": ("flv", "aac"),
        "mov": ("mpeg4", "pcm_s16le"),
        "mpg": ("mpeg1video", "mp2"),
        "ts": ("mpeg2video", "mp2"),
    }
    video, audio = codecs.get(ending, ("mpeg4", "aac"))
    path = tmp_path / f"clip.{ending}"
    source = ["-itsoffset", pictures_s, "-f", "lavfi", "-i", flash, "-itsoffset", sound_s, "-i", wav]
    run(*source, "-c:v", video, "-bf", 0, "-c:a", audio, "-ar", 44100, path)

    heard_T = waveform_16k(path)
    levels = [picture.mean() for picture in stream(film_of(path), (64, 64), Fraction(25))]
    flash_s = next(place for place, level in enumerate(levels) if level > 128) / 25
    burst_s = int(np.flatnonzero(np.abs(heard_T) > 0.02)[0]) / 16000
    assert abs(flash_s - burst_s) < 0.06, (flash_s, burst_s)
    assert abs(flash_s - 1.0) < 0.1
