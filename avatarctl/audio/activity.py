"""Tell from the sound alone, picture by picture, how loud the voice is and whether somebody speaks; in flat memory."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from avatarctl.audio.track import SAMPLE_RATE_HZ

Levels = NDArray[np.float64]
Flags = NDArray[np.bool_]
Detector = Literal["energy", "silero"]
Read = Callable[[int, int], NDArray[np.float32]]  # first sample and how many at 16 kHz -> those there are

VOICE_HZ = (300.0, 3400.0)  # of a telephone: what is left of a voice in most noise
SPAN = 1024  # samples of one look at the sound, 64 ms
AT_ONCE = 1000  # pictures
LEAST_DB = -100.0
# How they were chosen: docs/prepare.md, "Thresholds".
FLOOR_S, FLOOR_SHARE = 8.0, 0.10  # the floor is what is exceeded in nine tenths of so many seconds around
OVER_FLOOR_DB = 9.0
UNDER_LOUD_DB = 32.0  # so far under the recording's loud parts nothing is voice
SILENCE_DB = -62.0
BREATH_S, BURST_S = 0.25, 0.12  # shorter pauses are part of speech, shorter sounds are none
SILERO_SAMPLES = 512  # that it hears at once
SILERO_SURE = 0.5


def levels(read: Read, pictures: int, fps: Fraction) -> Levels:
    """Return how loud the band of the voice is around the middle of each picture, in dB of full scale (pictures,)."""
    window = np.hanning(SPAN)
    hz = np.fft.rfftfreq(SPAN, 1 / SAMPLE_RATE_HZ)
    band = (hz >= VOICE_HZ[0]) & (hz <= VOICE_HZ[1])
    found = np.full(pictures, LEAST_DB)
    for begin in range(0, pictures, AT_ONCE):
        numbers = range(begin, min(begin + AT_ONCE, pictures))
        starts = [round((number + Fraction(1, 2)) * SAMPLE_RATE_HZ / fps) - SPAN // 2 for number in numbers]
        first = starts[0]
        sound = _span(read, first, starts[-1] + SPAN - first)
        looks = np.stack([sound[start - first : start - first + SPAN] for start in starts])
        power = (np.abs(np.fft.rfft(looks * window, axis=1)[:, band]) ** 2).sum(axis=1) * 2 / (window**2).sum() / SPAN
        found[begin : begin + len(power)] = 10 * np.log10(power + 10 ** (LEAST_DB / 10))
    return found


def _span(read: Read, first: int, count: int) -> NDArray[np.float64]:
    """Return samples from any place, silence before the beginning and behind the end."""
    sound = np.zeros(count)
    before = max(-first, 0)
    known = read(max(first, 0), max(count - before, 0))
    sound[before : before + len(known)] = known
    return sound


def speech_by_energy(level_T: Levels, fps: Fraction) -> Flags:
    """Return in which pictures somebody speaks: where the level is over a floor that follows the recording (pictures,)."""
    if not len(level_T):
        return np.zeros(0, np.bool_)
    loud = float(np.quantile(level_T, 0.95))
    least = max(loud - UNDER_LOUD_DB, SILENCE_DB)
    return _joined((level_T > _floor(level_T, fps) + OVER_FLOOR_DB) & (level_T > least), fps)


def _floor(level_T: Levels, fps: Fraction) -> Levels:
    """Return the low quantile of the seconds around each picture, found twice a second and joined by lines."""
    half, step = max(round(FLOOR_S * fps / 2), 1), max(round(fps / 2), 1)
    places = np.arange(0, len(level_T) + step, step)
    latest = max(len(level_T) - 2 * half, 0)
    begins = [min(max(int(place) - half, 0), latest) for place in places]
    found = [np.quantile(level_T[begin : begin + 2 * half + 1], FLOOR_SHARE) for begin in begins]
    return np.interp(np.arange(len(level_T)), places, found)


def _joined(flags_T: Flags, fps: Fraction) -> Flags:
    """Fill short pauses, then take short bursts away."""
    joined = flags_T.copy()
    for wanted, longest_s in ((False, BREATH_S), (True, BURST_S)):
        for begin, end in stretches(joined == wanted):
            inner = begin > 0 and end < len(joined)
            if (end - begin) / fps < longest_s and (inner or wanted):
                joined[begin:end] = not wanted
    return joined


def stretches(flags_T: Flags) -> list[tuple[int, int]]:
    """Return (begin, end) of every unbroken stretch of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags_T, [False]]).astype(np.int8)))
    return [(int(begin), int(end)) for begin, end in zip(edges[::2], edges[1::2], strict=True)]


def detector_at_hand() -> Detector:
    """Return which one ``auto`` means: silero-vad where it is installed (the extra ``voice``), else the energy."""
    return "silero" if importlib.util.find_spec("silero_vad") else "energy"


def speech_by_silero(read: Read, pictures: int, fps: Fraction) -> Flags:
    """Return in which pictures somebody speaks, as silero-vad hears it; the extra ``voice`` installs it."""
    import torch
    from silero_vad import load_silero_vad

    model: Any = load_silero_vad()
    model.reset_states()
    probabilities = []
    with torch.inference_mode():
        for chunk in _chunks(read, round(pictures * SAMPLE_RATE_HZ / fps)):
            probabilities.append(float(model(torch.from_numpy(chunk), SAMPLE_RATE_HZ)))
    if not probabilities:
        return np.zeros(pictures, np.bool_)
    middles = (np.arange(pictures) + 0.5) * SAMPLE_RATE_HZ / float(fps) / SILERO_SAMPLES - 0.5
    sure = np.interp(middles, np.arange(len(probabilities)), probabilities)
    return _joined(sure > SILERO_SURE, fps)


def _chunks(read: Read, samples: int) -> Iterator[NDArray[np.float32]]:
    for first in range(0, samples, SILERO_SAMPLES):
        known = read(first, SILERO_SAMPLES)
        yield np.pad(known, (0, SILERO_SAMPLES - len(known))).astype(np.float32)
