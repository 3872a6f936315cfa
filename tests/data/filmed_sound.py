"""Test helper: the sound of footage with known truth: voices and how far their mouths are open, music, moved sound."""

from __future__ import annotations

from functools import cache

import numpy as np
from voices import make_voice

from avatarctl.puppet.mouth import mouth_from_audio

RATE_HZ = 16_000


@cache
def voice(seed: int, seconds: float) -> np.ndarray:
    """Return a voice at 16 kHz."""
    return make_voice(seed, seconds)


@cache
def mouth(seed: int, seconds: float) -> np.ndarray:
    """Return how far the mouth of a voice is open, 100 times a second: a rate that recordings are drawn from."""
    return mouth_from_audio(voice(seed, seconds), round(100 * seconds), 100, 1.5)[0]


def open_at(seed: int, seconds: float, at_s: float) -> float:
    """Return how far a mouth is open at a time."""
    curve = mouth(seed, seconds)
    return float(np.interp(at_s * 100 - 0.5, np.arange(len(curve)), curve))


def music(seconds: float, seed: int = 0) -> np.ndarray:
    """Return chords with a beat."""
    chance = np.random.default_rng(seed)
    time_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    sound = np.zeros(len(time_s))
    for begin in np.arange(0, seconds, 1.0):
        part = (time_s >= begin) & (time_s < begin + 1)
        for ratio in (1, 1.26, 1.5, 2, 3):
            hertz = 220 * 2 ** (chance.integers(-5, 6) / 12) * ratio
            sound[part] += np.sin(2 * np.pi * hertz * time_s[part]) * (0.7 + 0.3 * np.exp(-3 * (time_s[part] - begin)))
    return (sound / np.abs(sound).max()).astype(np.float32)


def shifted(sound: np.ndarray, seconds: float) -> np.ndarray:
    """Return sound that comes earlier by so many seconds: lips come after it by as much."""
    count = round(seconds * RATE_HZ)
    if count >= 0:
        return np.concatenate([sound[count:], np.zeros(count, np.float32)])
    return np.concatenate([np.zeros(-count, np.float32), sound[:count]])
