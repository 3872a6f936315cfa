"""Turn sound into mel-frequency cepstral coefficients as the package python_speech_features computes them by default."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from avatarctl.audio.track import SAMPLE_RATE_HZ

STEP, LENGTH, SIZE = 160, 400, 512  # samples between frames, of a frame, of its Fourier transform
FILTERS, CEPSTRA, LIFTER = 26, 13, 22
PRE_EMPHASIS = 0.97
FULL_SCALE = 32768  # of 16 bits, which the coefficients are defined with


def mfcc(waveform_T: NDArray[np.float32], first: int, last: int) -> NDArray[np.float32]:
    """Return (13, last - first) of the frames ``first`` to ``last`` of a waveform at 16 kHz in -1 … 1; it has them all.

    Of each frame of 25 ms, 100 a second: the logarithm of its energy, and twelve coefficients.
    """
    begin, end = first * STEP, (last - 1) * STEP + LENGTH
    assert 0 <= first < last and end <= len(waveform_T), "frames that the waveform hasn't"
    samples = np.rint(np.asarray(waveform_T[max(begin - 1, 0) : end], np.float64) * FULL_SCALE)
    samples = samples.clip(-FULL_SCALE, FULL_SCALE - 1)
    before = samples[:-1] if begin else np.concatenate([[0.0], samples[:-1]])
    emphasised = samples[-(end - begin) :] - PRE_EMPHASIS * before
    frames = np.lib.stride_tricks.sliding_window_view(emphasised, LENGTH)[::STEP]
    power = np.abs(np.fft.rfft(frames, SIZE)) ** 2 / SIZE
    least = np.finfo(float).eps
    logs = np.log(np.maximum(power @ _filters().T, least))
    found = logs @ _cosines().T
    found[:, 0] = np.log(np.maximum(power.sum(axis=1), least))
    return np.asarray(found.T, np.float32)


@cache
def _filters() -> NDArray[np.float64]:
    """Return (26, 257): triangles over the frequencies, as wide as they are apart on the mel scale."""
    highest = 2595 * np.log10(1 + SAMPLE_RATE_HZ / 2 / 700)
    hertz = 700 * (10 ** (np.linspace(0, highest, FILTERS + 2) / 2595) - 1)
    corners = np.floor((SIZE + 1) * hertz / SAMPLE_RATE_HZ)
    low, middle, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    places = np.arange(SIZE // 2 + 1)
    rising, falling = (places - low) / (middle - low), (high - places) / (high - middle)
    return np.where(places < middle, rising, falling).clip(0)


@cache
def _cosines() -> NDArray[np.float64]:
    """Return (13, 26): an orthonormal cosine transform, its higher rows made louder by the sine lifter."""
    rows = np.arange(CEPSTRA)[:, None]
    cosines = np.cos(np.pi * rows * (np.arange(FILTERS) + 0.5) / FILTERS) * np.sqrt(2 / FILTERS)
    return np.asarray(cosines * (1 + LIFTER / 2 * np.sin(np.pi * rows / LIFTER)), np.float64)
