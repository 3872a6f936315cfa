"""Decode the recording once: the sound of the video, the waveform that lips follow, and the plan of windows."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from avatarctl import console
from avatarctl.audio.decode import Blocks, probe, write_waveform
from avatarctl.audio.levels import gain_db, loudness, trimmed_span
from avatarctl.audio.speech import speech_states
from avatarctl.render.folder import RenderFolder, guarded
from avatarctl.render.inputs import Checked, exact, plan_of
from avatarctl.render.join import Sound
from avatarctl.sampling.team import launched
from avatarctl.sampling.windows import Plan, Window
from avatarctl.settings.placement import PlacementSettings

WAVEFORM = "audio.f32"


def own_device(settings: PlacementSettings) -> PlacementSettings:
    """Return each process of a launcher its own GPU."""
    if not launched() or settings.device == "cpu" or not torch.cuda.is_available():
        return settings
    return settings.model_copy(update={"device": f"cuda:{os.environ.get('LOCAL_RANK', '0')}"})


# -- Sound ----------------------------------------------------------------------------------------------------------


def decode_audio(
    checked: Checked, folder: RenderFolder, after_each: Callable[[], None] = lambda: None
) -> tuple[Sound | None, Plan]:
    """Decode the stretch of the recording that is used to 16 kHz, once; return the sound for the video, and the plan.

    ``after_each`` is called after each piece of work that takes long.
    """
    job, settings = checked.job, checked.job.render
    start, duration = exact(settings.start_s), None if settings.duration_s is None else exact(settings.duration_s)
    if settings.trim_silence:
        begin_s, length_s = trimmed_span(job.audio, start_s=start, duration_s=duration)
        start, duration = exact(round(begin_s, 3)), exact(round(length_s, 3))
    if not folder.valid(WAVEFORM):
        part = folder.new_part(WAVEFORM)
        with guarded(folder.path):
            write_waveform(job.audio, part, start, duration, _separation(checked, after_each))
        folder.adopt(part, WAVEFORM)
    samples = (folder.path / WAVEFORM).stat().st_size // 4
    plan = plan_of(settings, samples)
    if not settings.with_audio:
        return None, plan
    gain = 0.0
    if settings.loudness_dbfs is not None:
        measured = loudness(job.audio, start, duration)
        gain = gain_db(measured, settings.loudness_dbfs)
        if measured.dbfs + gain < settings.loudness_dbfs - 0.5:
            warnings.warn(
                f"loudness: {measured.dbfs + gain:.1f} dBFS is as loud as it gets without clipping", stacklevel=2
            )
    length = plan.video_frames / plan.fps
    heard = length if duration is None else min(duration, length)
    return Sound(job.audio, probe(job.audio), start, heard, length, gain), plan


def start_of(checked: Checked, sound: Sound | None) -> Fraction:
    """Return where in the recording the video begins, in seconds: where it was asked for, and after trimmed silence."""
    settings = checked.job.render
    if sound is not None:
        return sound.start_s
    start = exact(settings.start_s)
    if not settings.trim_silence:
        return start
    duration = None if settings.duration_s is None else exact(settings.duration_s)
    return exact(round(trimmed_span(checked.job.audio, start_s=start, duration_s=duration)[0], 3))


def _separation(checked: Checked, after_each: Callable[[], None]) -> Callable[[int, Blocks], tuple[int, Blocks]] | None:
    if checked.separator is None:
        return None
    from avatarctl.audio.vocals import Separator, voice_alone

    console.note("taking the voice out of the music (once)")
    separator = Separator(checked.separator)
    return lambda rate_hz, blocks: voice_alone(separator, rate_hz, blocks, after_each)


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
