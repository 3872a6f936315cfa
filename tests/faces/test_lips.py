"""How lips follow a voice, on curves with a known lag."""

from __future__ import annotations

import numpy as np
import pytest

from avatarctl.faces.lips import following


def curve(count: int, seed: int, deviation: float = 2.0) -> np.ndarray:
    """Something rhythmic: noise between 0.5 and 6 Hz at 25 a second."""
    spectrum = np.fft.rfft(np.random.default_rng(seed).normal(0, 1, count))
    hertz = np.fft.rfftfreq(count, 1 / 25)
    return np.fft.irfft(spectrum * ((hertz > 0.5) & (hertz < 6)), count) * deviation


@pytest.mark.parametrize("lag", [-10, -5, -1, 0, 1, 5, 10])
def test_a_lag_is_found_and_is_positive_when_lips_come_late(lag: int) -> None:
    voice = curve(1000, 0)
    lips = 0.1 + 0.01 * np.roll(voice, lag) + 0.005 * np.random.default_rng(1).normal(0, 1, 1000)
    found = following(lips, -30 + voice, 25)
    assert found is not None
    assert abs(found.lag_s - lag / 25) < 0.02
    assert found.correlation > 0.9 > 2.5 * found.shifted_mean
    assert len(found.shifted) == 20 and max(found.shifted) < 0.4


def test_half_a_picture_is_found_between_pictures() -> None:
    voice = curve(2000, 3)
    lips = (voice + np.roll(voice, 1)) / 2
    found = following(lips, voice, 25)
    assert found is not None and abs(found.lag_s - 0.02) < 0.004


def test_lips_of_another_voice_reach_what_shifted_voices_reach() -> None:
    """Of 40 pairs that have nothing to do with each other, about a twentieth passes the 95 % quantile."""
    passed = 0
    for seed in range(40):
        found = following(curve(500, 100 + seed), curve(500, 500 + seed), 25)
        assert found is not None
        passed += found.correlation > found.shifted_q95
    assert passed <= 6


def test_pictures_without_a_mouth_are_left_out() -> None:
    voice = curve(1000, 0)
    lips = np.roll(voice, 3)
    lips[200:500] = np.nan
    found = following(lips, voice, 25)
    assert found is not None and abs(found.lag_s - 0.12) < 0.01 and found.correlation > 0.99
    lips[:] = np.nan
    lips[:400] = voice[:400]
    assert following(lips, voice, 25) is None  # seen in less than half


def test_nothing_to_compare_is_none() -> None:
    voice = curve(1000, 0)
    assert following(np.zeros(1000), voice, 25) is None
    assert following(voice, np.full(1000, -90.0), 25) is None
    assert following(voice[:90], voice[:90], 25) is None
    assert following(voice[:100], voice[:100], 25) is not None
