"""The mouth that a sound drives: silence shuts it, a voice opens it at any level, bright vowels are wide; and what speaks."""

from __future__ import annotations

import shutil
from fractions import Fraction

import numpy as np
import pytest

from avatarctl.errors import UsageError
from avatarctl.puppet import voice
from avatarctl.puppet.mouth import RATE_HZ, mouth_from_audio

FPS = Fraction(25)
needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs espeak-ng")


def tone(seconds: float, hz: float, level: float = 0.5) -> np.ndarray:
    return (level * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE_HZ)) / RATE_HZ)).astype(np.float32)


def test_silence_shuts_the_mouth_and_a_voice_opens_it() -> None:
    hum = tone(1.5, 220)
    sound = np.concatenate([np.zeros(RATE_HZ, np.float32), hum, np.zeros(RATE_HZ, np.float32)])
    opening, width = mouth_from_audio(sound, 87)
    assert opening[:15].max() < 0.1 and opening[-15:].max() < 0.1
    assert opening[32:55].min() > 0.6
    assert np.all((width >= 0) & (width <= 1))
    silent, at_rest = mouth_from_audio(np.zeros(RATE_HZ, np.float32), 25)
    assert np.all(silent == 0) and np.allclose(at_rest, 0.5, atol=1e-3)


def test_loudness_of_the_recording_does_not_matter() -> None:
    chance = np.random.default_rng(0)
    sound = (tone(3.0, 200) * np.repeat(chance.random(30), RATE_HZ // 10)).astype(np.float32)
    loud, soft = (mouth_from_audio(sound * level, 75) for level in (1.0, 0.05))
    assert np.allclose(loud[0], soft[0], atol=0.02)


def test_bright_vowels_are_wide() -> None:
    dark, bright = (mouth_from_audio(tone(2, 200) + tone(2, hz, 0.4), 50)[1] for hz in (400, 2200))
    assert bright[25] > dark[25] + 0.3


def test_frames_follow_their_rate() -> None:
    sound = np.concatenate([np.zeros(RATE_HZ, np.float32), tone(1, 220)])
    for fps in (20, 25, 30):
        opening, _ = mouth_from_audio(sound, 2 * fps, FPS * fps / 25)
        assert len(opening) == 2 * fps
        assert np.argmax(opening > 0.4) == pytest.approx(fps, abs=4)


def test_no_language_is_trained_and_evaluated() -> None:
    assert not set(voice.TRAINING) & set(voice.EVALUATION)


def test_without_espeak_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError, match="espeak-ng: not found") as caught:
        voice.say("hello")
    assert "apt-get install espeak-ng" in caught.value.hint


@needs_espeak
def test_a_voice_that_is_none_is_said() -> None:
    with pytest.raises(UsageError, match="voice klingon-of-the-moon"):
        voice.say("hello", "klingon-of-the-moon")
