"""Compute how loud a voice is at every picture of a video, and in which pictures somebody speaks, from the sound alone."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from avatarctl.audio.track import SAMPLE_RATE_HZ

Curve = NDArray[np.float64]

VOICE_HZ = (
    300.0,
    3400.0,
)  # the band of a telephone: what makes speech intelligible, little of music's bass and of hiss
SPAN = 1024  # samples of one look at the sound, 64 ms: two periods of the deepest voice, shorter than a syllable
LEAST_DB = -90.0  # relative to full scale: the level of digital silence
CHUNK, CHUNK_S = 512, 20  # most pictures, and most seconds, whose spectra are computed together

# Speech or not. The floor is what is heard in pauses: within a second the quietest picture but a few, of half a minute
# the quiet seconds. Speech stands out of it, is not far below the recording's loud parts, and is heard at all.
QUIET_SHARE, FLOOR_SHARE, FLOOR_S = 0.1, 0.2, 31
OVER_FLOOR_DB = 9.0
UNDER_LOUD_DB = 35.0
AUDIBLE_DB = -65.0
GAP_S = 0.25  # a stop inside a word is no pause
LEAST_SPOKEN_S = 0.1


def envelope(waveform_T: NDArray[np.float32], pictures: int, fps: Fraction) -> Curve:
    """Return the level (pictures,) of a waveform at 16 kHz between 300 and 3400 Hz around the middle of each picture, in dB.

    A full-scale sine has about -3 dB. The waveform may be a memory map: it is read in order, a few seconds at a time.
    What it lacks at its end is silence.
    """
    levels = [_levels(looks) for looks in _looks(waveform_T, pictures, fps)]
    return np.concatenate(levels) if levels else np.zeros(0)


def speaks(levels_T: Curve, fps: Fraction) -> NDArray[np.bool_]:
    """Return in which pictures somebody speaks, by an adaptive floor under the levels of ``envelope``.

    A steady noise is no speech, however loud; music is taken for it.
    """
    if not len(levels_T):
        return np.zeros(0, bool)
    loud = float(np.quantile(levels_T, 0.95))
    over = np.maximum(floor_of(levels_T, fps) + OVER_FLOOR_DB, max(loud - UNDER_LOUD_DB, AUDIBLE_DB))
    spoken = _without_short(levels_T > over, False, round(GAP_S * fps))
    return _without_short(spoken, True, round(LEAST_SPOKEN_S * fps))


def floor_of(levels_T: Curve, fps: Fraction) -> Curve:
    """Return the level of what is heard while nobody speaks (pictures,), in dB."""
    per_second = max(round(fps), 1)
    count = max(len(levels_T) // per_second, 1)
    seconds = [np.quantile(part, QUIET_SHARE) for part in np.array_split(levels_T, count)]
    padded = np.pad(seconds, FLOOR_S // 2, mode="symmetric" if count > FLOOR_S else "edge")
    around = np.lib.stride_tricks.sliding_window_view(padded, FLOOR_S)
    if count <= FLOOR_S:
        around = np.array(seconds)[None].repeat(count, axis=0)
    floors = np.quantile(around, FLOOR_SHARE, axis=1)
    places = np.minimum(np.arange(len(levels_T)) * count // max(len(levels_T), 1), count - 1)
    return floors[places]


def _looks(waveform_T: NDArray[np.float32], pictures: int, fps: Fraction) -> Iterator[NDArray[np.float64]]:
    """Return the samples around the middles of some pictures, (N, SPAN) each time."""
    window = np.hanning(SPAN)
    chunk = min(CHUNK, max(int(CHUNK_S * fps), 1))
    for first in range(0, pictures, chunk):
        starts = [
            round((picture + Fraction(1, 2)) * SAMPLE_RATE_HZ / fps) - SPAN // 2
            for picture in range(first, min(first + chunk, pictures))
        ]
        begin, end = starts[0], starts[-1] + SPAN
        part = np.asarray(waveform_T[max(begin, 0) : max(end, 0)], np.float64)
        part = np.pad(part, (max(-begin, 0), max(end - begin - max(-begin, 0) - len(part), 0)))
        yield np.stack([part[start - begin : start - begin + SPAN] for start in starts]) * window


def _levels(looks_NT: NDArray[np.float64]) -> Curve:
    power = np.abs(np.fft.rfft(looks_NT, axis=1)) ** 2
    frequencies = np.fft.rfftfreq(SPAN, 1 / SAMPLE_RATE_HZ)
    band = (frequencies >= VOICE_HZ[0]) & (frequencies <= VOICE_HZ[1])
    # Of both halves of the spectrum, over the energy of the window: the mean square of what is in the band.
    mean_square = 2 * power[:, band].sum(1) / (SPAN * float((np.hanning(SPAN) ** 2).sum()))
    return np.maximum(10 * np.log10(np.maximum(mean_square, 1e-12)), LEAST_DB)


def _without_short(flags_T: NDArray[np.bool_], value: bool, least: int) -> NDArray[np.bool_]:
    """Return flags in which stretches of ``value`` shorter than ``least`` between others are turned round."""
    edges = np.flatnonzero(np.diff(flags_T.astype(np.int8))) + 1
    found = flags_T.copy()
    for begin, end in zip([0, *edges], [*edges, len(flags_T)], strict=True):
        if flags_T[begin] == value and end - begin < least and begin > 0 and end < len(flags_T):
            found[begin:end] = not value
    return found
