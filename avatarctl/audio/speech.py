"""Compute the wav2vec 2.0 states of a window's waveform."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Wav2Vec2Model

from avatarctl.audio.track import SAMPLE_RATE_HZ
from avatarctl.errors import UsageError


def normalise(waveform_T: NDArray[np.float32]) -> NDArray[np.float32]:
    """Zero mean and unit variance, in float32: what wav2vec 2.0 is fed with (its feature extractor's ``do_normalize``).

    The window alone counts, not the recording. Silence stays silence.
    """
    return (waveform_T - waveform_T.mean()) / np.sqrt(waveform_T.var() + 1e-7)


@torch.no_grad()
def speech_states(model: Wav2Vec2Model, waveform_T: NDArray[np.float32] | Tensor) -> Tensor:
    """``states_1LD``: the last hidden states of one window at 16 kHz, L of them 20 ms apart.

    They come in the model's dtype on its device; the window is normalised here. One window at a time: in a batch the
    last bits of a window's states depend on its neighbours' number.
    Raises UsageError for a window shorter than the model's first step (400 samples in every released wav2vec 2.0).
    """
    assert not model.training, "dropout and masking would change the states"
    if isinstance(waveform_T, Tensor):
        waveform_T = waveform_T.detach().float().cpu().numpy()
    samples_T = np.asarray(waveform_T, np.float32)
    assert samples_T.ndim == 1, f"got shape {samples_T.shape}, expected one axis"
    shortest = 1
    for kernel, stride in reversed(list(zip(model.config.conv_kernel, model.config.conv_stride, strict=True))):
        shortest = (shortest - 1) * stride + kernel
    if len(samples_T) < shortest:
        raise UsageError(
            f"window of speech: got {len(samples_T)} samples, expected at least {shortest} "
            f"({1000 * shortest / SAMPLE_RATE_HZ:g} ms)",
            "use more frames per window or a longer recording",
        )
    waveform_1T = torch.from_numpy(normalise(samples_T)).to(model.device, model.dtype)[None]
    states_1LD: Tensor = model(waveform_1T).last_hidden_state
    return states_1LD
