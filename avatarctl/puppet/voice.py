"""Make a voice at 16 kHz from a seed: speech by espeak-ng in many languages, or sung vowels."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from avatarctl.audio.speak import RATE_HZ, speak

Kind = Literal["speech", "singing"]
VARIANTS = ("m1", "m2", "m3", "m4", "m5", "m7", "f1", "f2", "f3", "f4", "f5", "croak", "klatt2")
# Languages of the training set, and of the evaluation: no voice is in both.
TRAINING = ("en-us", "en-gb", "de", "fr-fr", "es", "nl", "pl", "ro", "hu", "fi", "cs", "el", "tr", "eo", "id")
EVALUATION = ("it", "sv", "pt", "da", "ca")
# What is said. Languages read each other's words with their own sounds, which is all that lips need.
WORDS = (
    "morning", "river", "seven", "window", "maria", "open", "people", "nobody", "yellow", "banana", "under", "paper", "moon",
    "always", "telephone", "we", "believe", "summer", "kilo", "obvious", "animal", "you", "are", "late", "today", "island",
    "music", "apple", "father", "no", "idea", "school", "tomorrow", "garden", "who", "knows", "my", "friend", "evening", "papa",
    "mama", "bubble", "pepper", "amber", "mobile", "vivid", "five", "thousand", "oh", "yes", "we", "move", "over", "there",
)  # fmt: skip
# First two formants of vowels in Hz (Peterson and Barney 1952, rounded).
VOWELS = {"a": (730, 1090), "e": (530, 1840), "i": (270, 2290), "o": (570, 840), "u": (300, 870)}


def say(text: str, voice: str = "en-us", speed_wpm: int = 160, pitch: int = 50) -> NDArray[np.float32]:
    """Return spoken text (T,) at 16 kHz, full scale 1; raises ``UsageError`` with the way to install espeak-ng."""
    return speak(text, voice, speed_wpm, pitch)[0]


def make_pause(seed: int, duration_s: float) -> NDArray[np.float32]:
    """Return a stretch (T,) in which nobody speaks: hiss of some colour and level, at times with hum, at times nothing at all."""
    chance = np.random.default_rng([seed, 7005])
    count = round(duration_s * RATE_HZ)
    if chance.random() < 0.15:
        return np.zeros(count, np.float32)
    spectrum = np.fft.rfft(chance.normal(0, 1, count))
    hz = np.maximum(np.fft.rfftfreq(count, 1 / RATE_HZ), 20.0)
    hiss = np.fft.irfft(spectrum * hz ** -chance.uniform(0, 1.0), count)
    hiss /= hiss.std()
    if chance.random() < 0.3:
        hum_hz = chance.choice([50.0, 60.0])
        time_s = np.arange(count) / RATE_HZ
        hiss += chance.uniform(0.3, 2.0) * sum(np.sin(2 * np.pi * hum_hz * k * time_s) / k for k in (1, 2, 3))
    level = 10 ** (chance.uniform(-80, -52) / 20)
    return np.clip(hiss * level, -1, 1).astype(np.float32)


def silence(chance: np.random.Generator, least_s: float, most_s: float) -> NDArray[np.float32]:
    """Return a pause (T,) of some length."""
    return np.zeros(round(chance.uniform(least_s, most_s) * RATE_HZ), np.float32)


def levelled(samples: NDArray[np.float32], chance: np.random.Generator) -> NDArray[np.float32]:
    """Let the level wander slowly, by up to six decibels, and set the peak to 1."""
    points = np.interp(np.arange(len(samples)), np.linspace(0, len(samples), 5), chance.uniform(-6, 0, 5))
    moved = samples * (10 ** (points / 20)).astype(np.float32)
    return moved / max(float(np.abs(moved).max()), 1e-6)


def sing_phrase(chance: np.random.Generator) -> tuple[NDArray[np.float32], list[tuple[float, float, str]]]:
    """Sing a few notes, a buzz with vibrato through two formants; return them, and (start, stop, vowel) of each in seconds."""
    notes: list[NDArray[np.float32]] = []
    sung = []
    base_hz = chance.uniform(110, 330)
    for _ in range(int(chance.integers(3, 7))):
        seconds = chance.uniform(0.18, 0.7)
        time_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
        pitch_hz = base_hz * 2 ** (chance.choice([-5, -3, 0, 2, 4, 5, 7]) / 12)
        wobble = 1 + 0.012 * np.sin(2 * np.pi * 5.5 * time_s + chance.uniform(0, 6))
        phase = 2 * np.pi * np.cumsum(pitch_hz * wobble) / RATE_HZ
        vowel = str(chance.choice(list(VOWELS)))
        first, second = VOWELS[vowel]
        start_s = sum(map(len, notes)) / RATE_HZ
        sung.append((start_s, start_s + seconds, vowel))
        note = np.zeros(len(time_s))
        for harmonic in range(1, int(3800 // pitch_hz) + 1):
            hz = harmonic * pitch_hz
            gain = 1 / (1 + ((hz - first) / 110) ** 2) + 0.5 / (1 + ((hz - second) / 160) ** 2) + 0.01
            note += gain / harmonic**0.4 * np.sin(harmonic * phase)
        shape = np.minimum(1, np.minimum(time_s / 0.04, (seconds - time_s) / 0.07))
        notes.append((note * np.maximum(shape, 0)).astype(np.float32))
        if chance.random() < 0.5:
            notes.append(silence(chance, 0.03, 0.15))
    phrase = np.concatenate(notes)
    return phrase / max(float(np.abs(phrase).max()), 1e-6), sung
