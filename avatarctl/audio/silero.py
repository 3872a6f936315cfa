"""Hear with silero-vad in which pictures of a video somebody speaks; the extra ``voice`` installs it."""

from __future__ import annotations

import importlib.util
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from avatarctl.audio.envelope import Curve, speaks
from avatarctl.audio.track import SAMPLE_RATE_HZ
from avatarctl.errors import UsageError

AT_ONCE = 512  # samples that it hears at a time, 32 ms
SURE = 0.5  # its own default
Ear = Literal["energy", "silero"]


def ear_of(wanted: str) -> Ear:
    """Return what hears speech: ``auto`` means silero-vad where it is installed, else the energy of the voice's band.

    Raises ``UsageError`` when silero-vad is asked for and isn't there.
    """
    there = importlib.util.find_spec("silero_vad") is not None
    if wanted == "silero" and not there:
        raise UsageError("speech: got silero, which isn't installed", "pip install 'avatarctl[voice]'")
    return "silero" if there and wanted != "energy" else "energy"


def speaks_by(ear: Ear, waveform_T: NDArray[np.float32], levels_T: Curve, fps: Fraction) -> NDArray[np.bool_]:
    """Return in which pictures somebody speaks (pictures,), of a waveform at 16 kHz with the levels of ``envelope``."""
    return hears_speech(waveform_T, len(levels_T), fps) if ear == "silero" else speaks(levels_T, fps)


def hears_speech(waveform_T: NDArray[np.float32], pictures: int, fps: Fraction) -> NDArray[np.bool_]:
    """Return in which pictures silero-vad hears speech (pictures,); the waveform may be a memory map."""
    from silero_vad import load_silero_vad

    model: Any = load_silero_vad()
    model.reset_states()
    sure = []
    with torch.inference_mode():
        for first in range(0, len(waveform_T), AT_ONCE):
            chunk = np.asarray(waveform_T[first : first + AT_ONCE], np.float32)
            chunk = np.pad(chunk, (0, AT_ONCE - len(chunk)))
            sure.append(float(model(torch.from_numpy(chunk), SAMPLE_RATE_HZ)))
    middles = (np.arange(pictures) + 0.5) * SAMPLE_RATE_HZ / float(fps) / AT_ONCE - 0.5
    flags = np.interp(middles, np.arange(len(sure)), sure, right=0.0) > SURE if sure else np.zeros(pictures)
    return np.asarray(flags, np.bool_)
