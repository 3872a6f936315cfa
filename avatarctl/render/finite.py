"""Look for NaN and infinite numbers where a render would turn them into black pictures, and say where they came from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from avatarctl.console import clock
from avatarctl.errors import WeightsError
from avatarctl.sampling.windows import Plan, pictures_of
from avatarctl.settings.render import RenderJob
from avatarctl.weights import WeightFiles


def require_finite_latents(latents: Tensor, window: int, job: RenderJob, plan: Plan, files: WeightFiles) -> None:
    """Raise ``WeightsError`` for a window whose latents aren't finite, naming it, the LoRAs and the number format."""
    if bool(torch.isfinite(latents).all()):
        return
    start, stop = plan.start_of(window), plan.stop_of(window)
    pictures = (min(pictures_of(frame), plan.video_frames) if frame else 0 for frame in (start, stop))
    first, last = (clock(count / float(plan.fps)) for count in pictures)
    loras = " and ".join(f"{path} ({scale:g} times)" for path, scale in job.lora)
    raise WeightsError(
        f"window {window + 1} of {plan.count} ({first} to {last} of the video): the transformer computed NaN or infinite numbers "
        f"({f'with the LoRA {loras}, ' if loras else ''}dtype {job.placement.dtype}), expected finite ones",
        _way_out(job, files.transformer),
    )


def _way_out(job: RenderJob, transformer: Path) -> str:
    if job.lora:
        return f"render with less of the LoRA (--lora {job.lora[0][0]}:{job.lora[0][1] / 2:g}), or without it"
    if job.placement.dtype == "float16":
        return "render with --dtype bfloat16, whose numbers reach further, or --dtype float32"
    return f"check {transformer}: avatarctl fetch --verify; or render with --dtype float32"


def require_finite_conditions(tensors: Mapping[str, Tensor], files: WeightFiles) -> None:
    """Raise ``WeightsError`` naming the file of the network whose states of the inputs aren't finite."""
    made_by = {
        "positive": files.text_encoder,
        "negative": files.text_encoder,
        "image": files.image_encoder,
        "reference": files.vae,
        "speech": files.speech_encoder,
    }
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise WeightsError(
                f"{made_by[name]}: this network computed NaN or infinite numbers, expected finite ones: its weights are damaged",
                "check them with `avatarctl fetch --verify`, or render with --dtype float32",
            )


def require_finite_pictures(pixels: Tensor, segment: int) -> None:
    """Raise ``WeightsError`` for decoded pictures that aren't finite."""
    if not bool(torch.isfinite(pixels).all()):
        raise WeightsError(
            f"segment {segment}: the VAE decoded NaN or infinite pixels, expected finite ones: its weights are damaged",
            "check them with `avatarctl fetch --verify`, or render with --dtype float32",
        )
