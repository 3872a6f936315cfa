"""Render validation videos of a run with the transformer as it stands."""

from __future__ import annotations

import shutil
from pathlib import Path

from avatarctl.settings.check import make
from avatarctl.settings.formats import home_of
from avatarctl.settings.placement import PlacementSettings
from avatarctl.settings.presets import resolve
from avatarctl.settings.render import AllSettings, RenderJob, RenderSettings
from avatarctl.settings.train import TrainSettings
from avatarctl.training.model import base_file
from avatarctl.weights import WeightFiles, find_weights, transformer_places

FOLDER = "validation"


def check(settings: TrainSettings) -> None:
    """Raise the error of the first thing that validation videos lack, before hours of training."""
    if settings.validate_every:
        _settings(settings)
        _weights(settings, base_file(settings) or Path())


def jobs(settings: TrainSettings, run: Path, step: int, trained: Path) -> list[RenderJob]:
    """Return the renders of a step: each picture with its recording. ``trained``: the exported transformer or LoRA."""
    base = base_file(settings)
    files = _weights(settings, base if settings.is_lora and base else trained)
    folder = run / FOLDER / "weights"
    shutil.rmtree(folder, ignore_errors=True)
    pickled = transformer_places(settings.variant)[-1]
    for role, path in files.by_role().items():
        # Where it is looked for: our own bundle's name, or the released one's for a pickle.
        named = path.relative_to(files.folder) if role != "transformer" else "transformer.safetensors"
        link = folder / (pickled if role == "transformer" and path.suffix != ".safetensors" else named)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())
    values = _settings(settings)
    return [
        RenderJob(
            image=image,
            audio=audio,
            output=run / FOLDER / f"step-{step:08d}-{number:02d}{home_of(values.codec)}",
            render=values.part(RenderSettings),
            placement=values.part(PlacementSettings),
            weights=folder,
            variant=settings.variant,
            lora=((trained, 1.0),) if settings.is_lora else (),
        )
        for number, (image, audio) in enumerate(zip(settings.validation_images, settings.validation_audio, strict=True))
    ]


def _weights(settings: TrainSettings, transformer: Path) -> WeightFiles:
    """Find the other networks: in the folder that the settings name, or beside the transformer file that they name."""
    given = settings.weights
    return find_weights(given.parent if given and given.is_file() else given, (512, 512), settings.variant, transformer)


def _settings(settings: TrainSettings) -> AllSettings:
    values, places = resolve(AllSettings.model_fields, settings.validation_preset, {})
    return make(AllSettings, values, places)
