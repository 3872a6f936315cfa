"""Tests with a voice and its pauses: silero-vad hears the same speech, where it is installed; else the energy is asked."""

from __future__ import annotations

import importlib.util
from fractions import Fraction

import numpy as np
import pytest

from avatarctl.audio.envelope import envelope
from avatarctl.audio.silero import ear_of, speaks_by
from avatarctl.errors import UsageError
from avatarctl.paths import embedded_avatar

FPS, RATE = Fraction(25), 16_000
THERE = importlib.util.find_spec("silero_vad") is not None


def speech_between_silences() -> np.ndarray:
    voice = np.fromfile(embedded_avatar() / "samples" / "voice.wav", "<i2")[22:].astype(np.float32) / 32768
    quiet = np.random.default_rng(0).normal(0, 1e-4, 3 * RATE).astype(np.float32)
    return np.concatenate([quiet, voice[: 4 * RATE], quiet])


def test_what_hears_speech_is_chosen_by_what_is_installed() -> None:
    assert ear_of("energy") == "energy"
    assert ear_of("auto") == ("silero" if THERE else "energy")
    if not THERE:
        with pytest.raises(UsageError, match="isn't installed") as caught:
            ear_of("silero")
        assert "avatarctl[voice]" in caught.value.hint


@pytest.mark.parametrize("ear", ["energy", "silero"])
def test_speech_is_heard_where_it_is(ear: str) -> None:
    if ear == "silero" and not THERE:
        pytest.skip("silero-vad isn't installed (the extra voice)")
    sound = speech_between_silences()
    flags = speaks_by(ear, sound, envelope(sound, 250, FPS), FPS)  # type: ignore[arg-type]
    assert len(flags) == 250 and flags[85:165].mean() > 0.7
    assert flags[5:65].mean() < 0.05 and flags[190:245].mean() < 0.05
