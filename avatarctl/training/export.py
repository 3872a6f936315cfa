"""Export a trained transformer or LoRA as the file that `generate` and other tools load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from avatarctl import __version__
from avatarctl.networks import checkpoints
from avatarctl.networks.attach import changes_of
from avatarctl.networks.lora_formats import write_lora
from avatarctl.networks.transformer import StableAvatarTransformer3DModel
from avatarctl.settings.train import TrainSettings

TRANSFORMER, LORA = "transformer.safetensors", "lora.safetensors"


def export(
    model: StableAvatarTransformer3DModel,
    settings: TrainSettings,
    folder: Path,
    step: int,
    base: Mapping[str, Tensor],
) -> Path:
    """Write what was trained: a whole transformer under released names, or a LoRA in the format that was asked for.

    ``base``: the weights that a LoRA run trains in full, as they were before. Their differences go into the LoRA's file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not settings.is_lora:
        return checkpoints.save_weights(model, folder / TRANSFORMER)
    path = folder / LORA
    low_rank, full = changes_of(model, base)
    metadata = {"avatarctl": __version__, "step": str(step), "transformer": str(settings.weights or settings.variant)}
    write_lora(path, low_rank, full, settings.lora_format, model, metadata)
    return path
