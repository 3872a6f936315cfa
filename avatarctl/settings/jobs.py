"""Make the job of a render from a preset, the environment and single settings, as the command line does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from avatarctl.errors import UsageError
from avatarctl.paths import as_spelled
from avatarctl.settings import presets
from avatarctl.settings.check import make
from avatarctl.settings.formats import named_after
from avatarctl.settings.languages import parse_subtitles
from avatarctl.settings.names import to_fields
from avatarctl.settings.placement import PlacementSettings
from avatarctl.settings.render import AllSettings, RenderJob, RenderSettings
from avatarctl.settings.student import as_students_ask
from avatarctl.settings.values import lora_file, parse_lora


def render_job(
    image: Path | None,
    audio: Path,
    output: Path | None = None,
    preset: str | None = None,
    settings: Mapping[str, Any] | None = None,
    **files: Any,
) -> RenderJob:
    """Return the job that preset, environment and settings make together, in rising order of weight.

    ``image`` None: the picture that the preset (or ``AVATARCTL_IMAGE``) names. ``output`` None: named after the recording, in
    the current folder. ``settings``: by their names in files (``duration``) or in Python (``duration_s``). ``files``:
    ``work_dir``, ``frames``, ``keep``, ``accept_changes`` of the job. Raises ``UsageError`` with all mistakes at once, each
    with where its value came from.
    """
    given, _, twice = to_fields(settings or {}, {}, AllSettings.model_fields, note_old=False)
    if twice:
        raise UsageError("\n".join(twice), "leave one of them out")
    values, places = presets.resolve(AllSettings.model_fields, preset, {**given, "image": image})
    values, places = as_students_ask(values, places)
    made = make(AllSettings, values, places, example=presets.example_of(preset))
    if made.image is None:
        raise UsageError(
            "--image: got no picture, and the preset names none" if preset else "--image: got no picture",
            "name one: --image PICTURE; or try --preset puppet, which has its own",
        )
    return job_of(made, made.image, audio, output or named_after(as_spelled(audio), made.codec), preset, **files)


def job_of(made: AllSettings, image: Path, audio: Path, output: Path, preset: str | None, **files: Any) -> RenderJob:
    """Return the job of settings that were checked, with its inputs and where it goes."""
    return RenderJob(
        image=as_spelled(image),
        audio=as_spelled(audio),
        output=output,
        render=made.part(RenderSettings),
        placement=made.part(PlacementSettings),
        weights=made.weights,
        variant=made.variant,
        subtitles=tuple((language, as_spelled(Path(file))) for language, file in map(parse_subtitles, made.subtitles)),
        preset=presets.title_of(preset),
        lora=tuple((lora_file(as_spelled(Path(file))), scale) for file, scale in map(parse_lora, made.lora)),
        **files,
    )
