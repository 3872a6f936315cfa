"""Prepare a process for a render: its device, and the function that hears a window."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from avatarctl import launcher
from avatarctl.audio.speech import speech_states
from avatarctl.render.folder import RenderFolder
from avatarctl.render.sound import WAVEFORM
from avatarctl.sampling.windows import Plan, Window
from avatarctl.settings.placement import PlacementSettings


def own_device(settings: PlacementSettings) -> PlacementSettings:
    """Return each process of a launcher its own GPU."""
    if not launcher.launched() or settings.device == "cpu" or not torch.cuda.is_available():
        return settings
    return settings.model_copy(update={"device": f"cuda:{launcher.local_rank()}"})


def speech_of(folder: RenderFolder, plan: Plan, encoder: Any) -> Callable[[Window], torch.Tensor]:
    """Return the function that hears a window: its samples from the waveform file, silence past the end."""

    def speech_of_window(window: Window) -> torch.Tensor:
        samples = np.zeros(window.last_sample - window.first_sample, np.float32)
        count = max(min(window.last_sample, plan.samples) - window.first_sample, 0)
        # Read, not mapped: pages of a mapped file would count as memory of this process.
        known = np.fromfile(folder.path / WAVEFORM, "<f4", count, offset=4 * window.first_sample)
        samples[: len(known)] = known
        return speech_states(encoder, samples).float()

    return speech_of_window
