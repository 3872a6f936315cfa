"""Takes a trained transformer, gives the file that `generate` and other tools load: a transformer, or a LoRA."""

from __future__ import annotations

from pathlib import Path

from avatarctl.networks import checkpoints
from avatarctl.networks.transformer import StableAvatarTransformer3DModel
from avatarctl.settings_train import TrainSettings

TRANSFORMER, LORA = "transformer.safetensors", "lora.safetensors"


def export(model: StableAvatarTransformer3DModel, settings: TrainSettings, folder: Path, step: int) -> Path:
    """Write what was trained: a whole transformer under released names, or a LoRA in the format that was asked for."""
    folder.mkdir(parents=True, exist_ok=True)
    if not settings.is_lora:
        return checkpoints.save_weights(model, folder / TRANSFORMER)
    raise NotImplementedError
