"""Compute the mouth that a voice drives, frame by frame.

The drive is what the network can hear. Speech states are normalised window by window (81 frames), so absolute loudness is
gone: opening follows the energy of the voice relative to the level of the seconds around it, in decibels.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

RATE_HZ = 16000
SPAN = 1024  # samples of one look at the sound, 64 ms
VOICE_HZ = (100.0, 900.0)  # fundamental and first formant of vowels: hiss and plosives don't open the mouth
VOWEL_HZ = (250.0, 3500.0)  # where the centroid tells "oo" (500 Hz) from "ee" (1700 Hz)
NEIGHBOURHOOD_S = 1.3  # deviation of the Gaussian that a level is compared with
QUIET_DB = 30.0  # this far under the recording's loud parts nothing is voice
OPEN_DB = (-12.0, 2.5)  # relative to the level around: shut, wide open
CENTROID_HZ = (540.0, 1850.0)
SMOOTH_FRAMES = 2.5  # at 25 fps: a latent frame is four pictures, sharper changes can't be followed


def mouth_from_audio(
    waveform_T: NDArray[np.float32], frames: int, fps: Fraction = Fraction(25), smooth_frames: float = SMOOTH_FRAMES
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return opening and width (frames,), each 0 … 1, that a voice at 16 kHz drives. Deterministic; silence is a shut mouth.

    ``smooth_frames``: deviation of the Gaussian that both are smoothed with, in frames at 25 fps.
    """
    power, frequencies = _spectra(waveform_T, frames, fps)
    voice = power[:, (frequencies >= VOICE_HZ[0]) & (frequencies <= VOICE_HZ[1])].sum(1)
    loud = np.quantile(voice, 0.95) if len(voice) else 0.0
    floor = loud * 10 ** (-QUIET_DB / 10) + 1e-9
    rate = float(fps)
    around = smooth(voice, NEIGHBOURHOOD_S * rate) / np.maximum(
        smooth(np.ones_like(voice), NEIGHBOURHOOD_S * rate), 1e-9
    )
    relative_db = 10 * np.log10((voice + 1e-12) / np.maximum(around, floor))
    opening = np.clip((relative_db - OPEN_DB[0]) / (OPEN_DB[1] - OPEN_DB[0]), 0, 1)
    opening = np.where(voice > floor, opening, 0.0)

    band = (frequencies >= VOWEL_HZ[0]) & (frequencies <= VOWEL_HZ[1])
    weights = np.sqrt(power[:, band])
    centroid = (weights * frequencies[band]).sum(1) / np.maximum(weights.sum(1), 1e-9)
    place = np.log(np.maximum(centroid, 1.0) / CENTROID_HZ[0]) / np.log(CENTROID_HZ[1] / CENTROID_HZ[0])
    width = np.clip(place, 0, 1)
    spread = smooth_frames * rate / 25
    # A shut mouth is neither wide nor narrow: width counts as much as there is voice.
    width = (smooth(width * opening, spread) + 0.5 * 0.05) / (smooth(opening, spread) + 0.05)
    return np.clip(smooth(opening, spread), 0, 1), np.clip(width, 0, 1)


def _spectra(
    waveform_T: NDArray[np.float32], frames: int, fps: Fraction
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the power (frames, frequencies) around the middle of each frame, and the frequencies in Hz."""
    padded = np.pad(waveform_T.astype(np.float64), (SPAN, 2 * SPAN))
    middles = [round((frame + Fraction(1, 2)) * RATE_HZ / fps) + SPAN for frame in range(frames)]
    looks = np.stack([_cut(padded, middle) for middle in middles]) if frames else np.zeros((0, SPAN))
    power = np.abs(np.fft.rfft(looks * np.hanning(SPAN), axis=1)) ** 2
    return power, np.fft.rfftfreq(SPAN, 1 / RATE_HZ).astype(np.float64)


def _cut(padded: NDArray[np.float64], middle: int) -> NDArray[np.float64]:
    part = padded[middle - SPAN // 2 : middle + SPAN // 2]
    return np.pad(part, (0, SPAN - len(part)))


def smooth(values: NDArray[np.float64], deviation: float) -> NDArray[np.float64]:
    """Return values under a Gaussian window, the ends continued."""
    radius = int(np.ceil(4 * deviation))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / deviation) ** 2)
    return np.convolve(np.pad(values, radius, mode="edge"), kernel / kernel.sum(), mode="valid")
