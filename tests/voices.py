"""Test helper: voices of a given length from a seed, in many languages."""

from __future__ import annotations

import numpy as np

from avatarctl.audio.speak import RATE_HZ
from avatarctl.puppet.voice import TRAINING, VARIANTS, WORDS, levelled, say, silence


def make_voice(seed: int, duration_s: float) -> np.ndarray:
    """Return a voice (T,) of exactly this length. The same seed gives the same voice (with the same espeak-ng)."""
    chance = np.random.default_rng([seed, 7002, 0])
    count = round(duration_s * RATE_HZ)
    parts = [silence(chance, 0.0, 0.35)]
    voice = f"{chance.choice(TRAINING)}+{chance.choice(VARIANTS)}"
    speed, pitch = int(chance.integers(110, 210)), int(chance.integers(15, 90))
    while sum(map(len, parts)) < count:
        words = [str(word) for word in chance.choice(WORDS, int(chance.integers(3, 9)))]
        parts.append(trimmed(say(" ".join(words), voice, speed, pitch)))
        parts.append(silence(chance, 0.05, 1.1 if chance.random() < 0.25 else 0.35))
    whole = levelled(np.concatenate(parts)[:count], chance) * chance.uniform(0.25, 1.0)
    noise = chance.normal(0, 1, count).astype(np.float32)
    return np.clip(whole + noise * 10 ** (chance.uniform(-62, -38) / 20), -1, 1).astype(np.float32)


def trimmed(samples: np.ndarray) -> np.ndarray:
    """Cut off the silence at both ends."""
    heard = np.flatnonzero(np.abs(samples) > 0.01)
    return samples[heard[0] : heard[-1] + 1] if len(heard) else samples
