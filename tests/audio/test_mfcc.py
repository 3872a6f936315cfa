"""Tests with cepstral coefficients: those of python_speech_features 0.6, in whatever pieces they are asked for."""

from __future__ import annotations

import numpy as np

from avatarctl.audio.mfcc import mfcc

# Of frames 0 and 40, computed by that package with its defaults.
FIRST = [19.11, -6.1633, -20.4796, 35.4881, 29.9369, -21.005, 5.8496, 35.2098, -11.9086, -25.34, 15.7533, 2.0952]
FORTIETH = [19.4696, 2.7237, -4.0191, 46.9069, 12.6329, -22.8824, 27.6747, 17.4148, -31.9612, 1.6336, 13.5073, -31.5994]


def sound() -> np.ndarray:
    times = np.arange(16_000)
    return (
        0.3 * np.sin(times * 0.05) * np.sin(times * 0.0007) + 0.05 * np.sin(times * 0.9 + times * times * 1e-5)
    ).astype(np.float32)


def test_coefficients_are_those_of_the_package() -> None:
    whole = mfcc(sound(), 0, 98)
    assert whole.shape == (13, 98)
    assert np.abs(whole[:12, 0] - FIRST).max() < 1e-3 and np.abs(whole[:12, 40] - FORTIETH).max() < 1e-3
    for first, last in ((0, 20), (4, 24), (78, 98)):
        assert np.abs(mfcc(sound(), first, last) - whole[:, first:last]).max() < 1e-4


def test_silence_has_finite_ones() -> None:
    assert np.isfinite(mfcc(np.zeros(4000, np.float32), 0, 20)).all()
