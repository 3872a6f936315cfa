"""Levels of a voice per picture, and speech or not, on sounds whose levels and pauses are known."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from avatarctl.audio.envelope import envelope, speaks
from avatarctl.paths import embedded_avatar

FPS, RATE = Fraction(25), 16_000


def tone(hertz: float, seconds: float, amplitude: float = 1.0) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def noise(seconds: float, level_db: float, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(0, 10 ** (level_db / 20), round(seconds * RATE))).astype(np.float32)


@pytest.mark.parametrize(("hertz", "level"), [(1000, -3.0), (400, -3.0), (60, -60.0), (6000, -60.0)])
def test_level_of_a_sine_inside_and_outside_of_the_band(hertz: float, level: float) -> None:
    middle = envelope(tone(hertz, 2), 50, FPS)[20:30]
    if level == -3.0:
        assert np.abs(middle - level).max() < 0.1
    else:
        assert middle.max() < level


def test_a_click_is_loudest_in_the_picture_in_whose_middle_it_is() -> None:
    sound = np.zeros(4 * RATE, np.float32)
    for fps in (Fraction(12), Fraction(25), Fraction(30000, 1001), Fraction(60)):
        picture = int(2 * fps)
        click = sound.copy()
        click[round((picture + 0.5) * RATE / fps)] = 1
        assert envelope(click, int(4 * fps), fps).argmax() == picture, fps


def test_what_the_sound_lacks_is_silence_and_chunks_do_not_show() -> None:
    sound = noise(60, -20)
    whole = envelope(sound, 1600, FPS)
    assert len(whole) == 1600 and (whole[1502:] == -90).all() and whole[:1490].min() > -40
    assert np.array_equal(whole[:700], envelope(sound, 700, FPS))
    assert len(envelope(sound, 0, FPS)) == 0


def test_speech_in_noise_is_told_from_pauses_and_steady_noise_is_none() -> None:
    voice = np.fromfile(embedded_avatar() / "samples" / "voice.wav", "<i2")[22:].astype(np.float32) / 32768
    assert not speaks(envelope(noise(20, -20), 500, FPS), FPS).any()
    assert not speaks(envelope(np.zeros(20 * RATE, np.float32), 500, FPS), FPS).any()
    loud = voice[: 4 * RATE] / np.abs(voice[: 4 * RATE]).max()
    silence = np.zeros(3 * RATE, np.float32)
    sound = np.concatenate([silence, loud, silence, loud, silence])
    for level_db, least in ((-80, 0.8), (-50, 0.8), (-40, 0.65)):  # what is softer than the noise isn't heard
        found = speaks(envelope(sound + noise(len(sound) / RATE, level_db), 425, FPS), FPS)
        assert found[80:170].mean() > least and found[255:345].mean() > least, level_db
        assert found[5:70].mean() < 0.05 and found[180:245].mean() < 0.05 and found[355:420].mean() < 0.05, level_db
