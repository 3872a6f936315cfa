"""Voices with the time of every sound: what the mouth of a drawn face is driven by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from avatarctl.audio.speak import RATE_HZ, Phoneme, speak
from avatarctl.puppet.voice import (
    EVALUATION,
    TRAINING,
    VARIANTS,
    WORDS,
    Kind,
    levelled,
    make_pause,
    silence,
    sing_phrase,
)


@dataclass(frozen=True)
class Voice:
    """Sound (T,) at 16 kHz, its phonemes, and when phrases end, in seconds."""

    samples: NDArray[np.float32]
    phonemes: tuple[Phoneme, ...] = ()
    ends_s: tuple[float, ...] = ()


def make_voice(seed: int, duration_s: float, kind: Kind = "speech", evaluation: bool = False) -> Voice:
    """Return a voice of exactly this length. The same seed gives the same voice (with the same espeak-ng).

    ``evaluation``: a language that the training set never has, and other random numbers.
    """
    chance = np.random.default_rng([seed, 8012, int(evaluation)])
    count = round(duration_s * RATE_HZ)
    language = chance.choice(EVALUATION if evaluation else TRAINING)
    manner = f"{language}+{chance.choice(VARIANTS)}", int(chance.integers(110, 210)), int(chance.integers(15, 90))
    parts = [silence(chance, 0.0, 0.35)]
    phonemes: list[Phoneme] = []
    ends = []
    while (length := sum(map(len, parts))) < count:
        if kind == "singing":
            samples, sung = sing_phrase(chance)
            phrase = [Phoneme(*note) for note in sung]
        else:
            words = " ".join(str(word) for word in chance.choice(WORDS, int(chance.integers(3, 9))))
            samples, phrase = _trimmed(*speak(words, *manner))
        phonemes += [each.moved(length / RATE_HZ) for each in phrase]
        ends.append((length + len(samples)) / RATE_HZ)
        parts += [samples, silence(chance, 0.05, 1.1 if chance.random() < 0.25 else 0.35)]
    whole = levelled(np.concatenate(parts)[:count], chance) * chance.uniform(0.25, 1.0)
    hiss = chance.normal(0, 1, count) * 10 ** (chance.uniform(-62, -38) / 20)
    heard = tuple(each for each in phonemes if each.start_s < duration_s)
    return Voice(np.clip(whole + hiss, -1, 1).astype(np.float32), heard, tuple(s for s in ends if s < duration_s))


def after(voice: Voice, pause_s: float, seed: int) -> Voice:
    """Return a voice that is followed by a pause in which nobody speaks."""
    return Voice(np.concatenate([voice.samples, make_pause(seed, pause_s)]), voice.phonemes, voice.ends_s)


def _trimmed(samples: NDArray[np.float32], phonemes: list[Phoneme]) -> tuple[NDArray[np.float32], list[Phoneme]]:
    """Cut off the silence at both ends."""
    heard = np.flatnonzero(np.abs(samples) > 0.01)
    if not len(heard):
        return samples, phonemes
    first, last = heard[0], heard[-1] + 1
    return samples[first:last], [each.moved(-first / RATE_HZ) for each in phonemes]
