"""Render validation videos from the model in memory; whatever fails is noted, and training continues."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avatarctl import durable
from avatarctl.console import note
from avatarctl.errors import AvatarError
from avatarctl.networks import checkpoints as weights
from avatarctl.networks.vae import decode_stream
from avatarctl.render.finite import require_finite_conditions
from avatarctl.render.frames import to_pictures
from avatarctl.render.join import join
from avatarctl.render.segment import SegmentWriter
from avatarctl.render.sound import Sound
from avatarctl.sampling.predict import make_sampler
from avatarctl.settings.formats import format_of
from avatarctl.training.conditions import FOLDER, Ready, Video, load_conditions
from avatarctl.training.held_out import as_exported
from avatarctl.training.measured import measured
from avatarctl.training.state import RunState

RATE_HZ = 16_000
# Measures of a finished validation video: called with (video, picture, recording), what each returns stands in the metrics.
Measure = Callable[[Path, Path, Path], Mapping[str, Any]]
MEASURES: list[Measure] = [measured]


def lacking(state: RunState, videos: list[Video]) -> bool:
    """Return whether videos of this step are asked for and not there."""
    every = state.settings.validate_every
    folder = state.job.output / FOLDER
    return bool(every) and not state.step % every and not all((folder / v.name(state.step)).exists() for v in videos)


def validate(state: RunState, videos: list[Video], stopped: Callable[[], bool]) -> list[dict[str, Any]]:
    """Render the videos of this step, and return what became of each, as the metrics hold it.

    Several processes share the videos, or with sharded weights run every pass together and the first one writes.
    ``stopped`` tells whether somebody asked to stop: then what is left is left.
    """
    accelerator = state.accelerator
    rows = []
    mine = videos if state.sharded else videos[accelerator.process_index :: accelerator.num_processes]
    with as_exported(state):
        for video in mine:
            if stopped() and not state.sharded:
                break
            began = time.monotonic()
            row: dict[str, Any] = {"validation": video.name(state.step)}
            try:
                row |= _render(state, video, stopped)
            except (AvatarError, OSError, RuntimeError, ValueError) as error:  # out of memory is a RuntimeError
                message = getattr(error, "message", str(error)) or type(error).__name__
                row["failed"] = message.splitlines()[0]
                note(f"validation video {video.name(state.step)}: {row['failed']}; training continues")
            row["validation_s"] = round(time.monotonic() - began, 3)
            rows.append(row)
            if accelerator.device.type == "cuda":
                torch.cuda.empty_cache()
    return rows


def _render(state: RunState, video: Video, stopped: Callable[[], bool]) -> dict[str, Any]:
    """Render one video, and return what is measured of it."""
    ready = load_conditions(video, state.job.output, state.bare.dims.text_len)
    latents = _sample(state, video, ready, stopped)
    if state.sharded and not state.leads:
        return {}
    target = state.job.output / FOLDER / video.name(state.step)
    write_video(latents, ready, video, target, state.accelerator.device)
    note(f"validation video: {target}")
    return {name: value for measure in MEASURES for name, value in measure(target, video.image, video.audio).items()}


@torch.no_grad()
def _sample(state: RunState, video: Video, ready: Ready, stopped: Callable[[], bool]) -> Tensor:
    conditions = ready.conditions()
    tensors = {"positive": conditions.positive, "reference": conditions.reference}
    require_finite_conditions(tensors, video.files)
    # Parts of sharded weights are together only inside a whole pass, and swapped ones are there only while their block computes.
    ahead = not state.sharded and not state.settings.block_swap
    sampler, predictor = make_sampler(state.bare, conditions, ready.plan, video.render, precompute=ahead, batch=1)
    parts = []
    with state.narrowed():
        for finals in sampler.run(video.render.order):
            if stopped() and not state.sharded:
                raise AvatarError("stopped before it was finished")
            for final in finals:
                predictor.forget(final.window)
                parts.append(final.latents.float().cpu())
    latents = torch.cat(parts, dim=2)
    if not bool(latents.isfinite().all()):
        raise AvatarError("its latents are not finite")
    return latents


@torch.no_grad()
def write_video(latents_BCTHW: Tensor, ready: Ready, video: Video, target: Path, device: torch.device) -> None:
    """Decode latents and write them with the recording's sound; the file is whole or absent."""
    vae = weights.load_vae(video.files.vae, device=device)
    plan, settings = ready.plan, video.render
    form = format_of(target)
    frames = (latents_BCTHW[:, :, i : i + 1].to(device) for i in range(latents_BCTHW.shape[2]))
    with tempfile.TemporaryDirectory() as folder:
        segment = Path(folder) / f"picture{form.segment_suffix}"
        left = plan.video_frames
        with SegmentWriter(segment, *settings.size, plan.fps, form) as writer:
            for pixels in decode_stream(vae, frames):
                pictures = to_pictures(pixels)[:left]
                writer.write(pictures)
                left -= len(pictures)
        voice = Path(folder) / "voice.f32"
        ready.waveform.numpy().astype("<f4").tofile(voice)
        length = round(Fraction(plan.video_frames) / plan.fps * RATE_HZ)
        sound = Sound(voice, RATE_HZ, 1, "mono", 0, len(ready.waveform), length)
        with durable.beside(target) as part:
            join([segment], part, sound, form)
