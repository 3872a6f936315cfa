"""Takes the transformer as it stands, gives validation videos of a run, made by the render engine."""

from __future__ import annotations

import shutil
from pathlib import Path

from avatarctl.presets import resolve
from avatarctl.settings import AllSettings, PlacementSettings, RenderJob, RenderSettings, make
from avatarctl.settings_train import TrainSettings
from avatarctl.weights import find_weights

FOLDER = "validation"


def check(settings: TrainSettings) -> None:
    """Raise the error of the first thing that validation videos lack, before hours of training."""
    if settings.validate_every:
        _settings(settings)
        find_weights(settings.weights, (512, 512), settings.variant, Path() if settings.dims is not None else None)


def jobs(settings: TrainSettings, run: Path, step: int, trained: Path) -> list[RenderJob]:
    """Give the renders of a step: each picture with its recording. ``trained``: the exported transformer or LoRA."""
    files = find_weights(settings.weights, (512, 512), settings.variant, None if settings.is_lora else trained)
    folder = run / FOLDER / "weights"
    shutil.rmtree(folder, ignore_errors=True)
    for path in files.by_role().values():
        link = folder / ("transformer.safetensors" if path == trained else path.relative_to(files.folder))
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())
    values = _settings(settings)
    return [
        RenderJob(
            image=image,
            audio=audio,
            output=run / FOLDER / f"step-{step:08d}-{number:02d}.mp4",
            render=values.part(RenderSettings),
            placement=values.part(PlacementSettings),
            weights=folder,
            lora=((trained, 1.0),) if settings.is_lora else (),
        )
        for number, (image, audio) in enumerate(zip(settings.validation_images, settings.validation_audio, strict=True))
    ]


def _settings(settings: TrainSettings) -> AllSettings:
    values, places = resolve(AllSettings.model_fields, settings.validation_preset, {})
    return make(AllSettings, values, places)
