"""`avatarctl generate` and `avatarctl resume`: render a video, or continue an interrupted render."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from avatarctl import console
from avatarctl.commands import options as o
from avatarctl.errors import UsageError

if TYPE_CHECKING:
    from avatarctl.render.estimate import Estimate
    from avatarctl.render.inputs import Rendered
    from avatarctl.settings.render import RenderJob


def generate(
    audio: o.Audio,
    image: o.Image = None,
    output: o.NamedOutput = None,
    prompt: o.Prompt = None,
    negative_prompt: o.NegativePrompt = None,
    preset: o.Preset = None,
    seed: o.Seed = None,
    steps: o.Steps = None,
    size: o.Size = None,
    fps: o.Fps = None,
    window: o.Window = None,
    overlap: o.Overlap = None,
    blend: o.Blend = None,
    guidance: o.Guidance = None,
    audio_scale: o.AudioScale = None,
    text_scale: o.TextScale = None,
    shift: o.Shift = None,
    window_batch: o.WindowBatch = None,
    start: o.Start = None,
    duration: o.Duration = None,
    trim_silence: o.TrimSilence = None,
    separate_vocals: o.SeparateVocals = None,
    loudness: o.Loudness = None,
    fit: o.Fit = None,
    weights: o.Weights = None,
    lora: o.Lora = None,
    device: o.Device = None,
    dtype: o.Dtype = None,
    memory: o.Memory = None,
    checkpoint_every: o.CheckpointEvery = None,
    contact_sheet: o.ContactSheet = None,
    with_audio: o.WithAudio = None,
    enlarge: o.Enlarge = None,
    subtitles: o.Subtitles = None,
    metadata: o.Metadata = None,
    mark_synthetic: o.MarkSynthetic = None,
    crf: o.Crf = None,
    codec: o.Codec = None,
    work_dir: o.WorkDir = None,
    frames: o.Frames = None,
    keep: o.Keep = False,
    force: o.Force = False,
    dry_run: o.DryRun = False,
    show_settings: o.ShowSettings = False,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
    progress: o.Progress = "auto",
) -> None:
    """Make a video of the person in a picture speaking or singing a recording.

    The same command again continues an unfinished render. Ctrl-C saves and stops; a kill loses a minute at most.
    Defaults are those of the preset square: a preset changes them, `avatarctl presets list` tells which there are.

    Example: avatarctl generate -i me.jpg -a speech.mp3 -o talk.mp4 --preset portrait
    """
    flags = {
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "seed": seed,
        "steps": steps,
        "size": size,
        "fps": fps,
        "window": window,
        "overlap": overlap,
        "blend": blend,
        "guidance": guidance,
        "audio_scale": audio_scale,
        "text_scale": text_scale,
        "shift": shift,
        "window_batch": window_batch,
        "start_s": start,
        "duration_s": duration,
        "trim_silence": trim_silence,
        "separate_vocals": separate_vocals,
        "loudness_dbfs": loudness,
        "fit": fit,
        "weights": weights,
        "lora": tuple(lora) if lora else None,
        "device": device,
        "dtype": dtype,
        "memory": memory,
        "checkpoint_every_s": checkpoint_every,
        "contact_sheet_every_s": contact_sheet,
        "with_audio": with_audio,
        "enlarge": enlarge,
        "subtitles": tuple(subtitles) if subtitles else None,
        "metadata": metadata,
        "mark_synthetic": mark_synthetic,
        "crf": crf,
        "codec": codec,
    }
    console.quiet(quiet)
    if show_settings:
        _show_settings(preset, {**flags, "image": image}, audio, as_json)
        return
    job = job_of(image, audio, output, preset, flags, work_dir=work_dir, frames=frames, keep=keep)
    if dry_run:
        _dry_run(job, force, as_json)
        return
    run_job(job, force, "generate", as_json, quiet, progress)


def resume(
    render: Annotated[
        Path | None,
        typer.Argument(
            metavar="RENDER", help="Render folder, or the video it makes; the newest interrupted one if none."
        ),
    ] = None,
    memory: o.Memory = None,
    device: o.Device = None,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
    progress: o.Progress = "auto",
) -> None:
    """Resume an interrupted render: same inputs, same video, to the byte.

    Example: avatarctl resume talk.mp4.render
    """
    from avatarctl.render.folder import RenderFolder
    from avatarctl.render.inputs import job_of as job_in
    from avatarctl.render.known import known_renders

    console.quiet(quiet)
    if render is None:
        interrupted = [known for known in known_renders() if known.state == "interrupted"]
        if not interrupted:
            raise UsageError("resume: no interrupted render is known", "name its folder: avatarctl resume FOLDER")
        render = interrupted[0].path
    path = render_folder(render)
    job = job_in(RenderFolder(path).manifest()).model_copy(update={"work_dir": path})
    changes = {name: value for name, value in (("memory", memory), ("device", device)) if value is not None}
    if changes:
        from avatarctl.settings.check import make
        from avatarctl.settings.placement import PlacementSettings

        job = job.model_copy(update={"placement": make(PlacementSettings, {**job.placement.model_dump(), **changes})})
    run_job(job, False, "resume", as_json, quiet, progress)


def render_folder(path: Path) -> Path:
    """Return the render folder that a user means: itself, or the one of the video named."""
    from avatarctl.paths import derived

    beside = derived(path, after=".render")
    return beside if not path.is_dir() and beside.is_dir() else path


def job_of(
    image: Path | None, audio: Path, output: Path | None, preset: str | None, flags: dict[str, Any], **files: Any
) -> RenderJob:
    """Return the job that preset, environment and flags make together; all mistakes at once.

    ``image`` None: the picture that the preset (or ``AVATARCTL_IMAGE``) names. ``output`` None: named
    after the recording, in the current folder. Raises ``UsageError`` without any.
    """
    from avatarctl.paths import as_spelled
    from avatarctl.settings import presets
    from avatarctl.settings.check import make
    from avatarctl.settings.formats import named_after
    from avatarctl.settings.languages import parse_subtitles
    from avatarctl.settings.placement import PlacementSettings
    from avatarctl.settings.render import AllSettings, RenderJob, RenderSettings
    from avatarctl.settings.values import lora_file, parse_lora

    values, places = presets.resolve(AllSettings.model_fields, preset, {**flags, "image": image})
    settings = make(AllSettings, values, places, example=presets.example_of(preset))
    if settings.image is None:
        raise UsageError(
            "--image: got no picture, and the preset names none" if preset else "--image: got no picture",
            "name one: --image PICTURE; or try --preset puppet, which has its own",
        )
    return RenderJob(
        image=as_spelled(settings.image),
        audio=as_spelled(audio),
        output=output or named_after(as_spelled(audio), settings.codec),
        render=settings.part(RenderSettings),
        placement=settings.part(PlacementSettings),
        weights=settings.weights,
        variant=settings.variant,
        subtitles=tuple(
            (language, as_spelled(Path(file))) for language, file in map(parse_subtitles, settings.subtitles)
        ),
        preset=presets.title_of(preset),
        lora=tuple((lora_file(as_spelled(Path(file))), scale) for file, scale in map(parse_lora, settings.lora)),
        **files,
    )


def _show_settings(preset: str | None, flags: dict[str, Any], audio: Path, as_json: bool) -> None:
    from avatarctl.commands.settings_text import settings_table
    from avatarctl.settings import presets

    rows = presets.explain("render", preset, flags)
    inputs = {"audio": {"value": str(audio), "source": "--audio", "does": "Recording of the voice."}}
    text = settings_table({**inputs, **rows})
    console.result("generate", {"settings": rows, "inputs": inputs}, text, as_json, status="dry run")


def _dry_run(job: RenderJob, force: bool, as_json: bool) -> None:
    from avatarctl.render.estimate import estimate
    from avatarctl.render.inputs import check

    checked = check(job, force)
    for note in checked.notes:
        console.note(f"warning: {note}")
    planned = estimate(checked)
    data = {**planned.to_json(), "notes": checked.notes}
    console.result("generate", data, _plan_text(planned), as_json, status="dry run")


def _plan_text(planned: Estimate) -> str:
    time_text = "unknown" if planned.time_s is None else console.clock(planned.time_s)
    rows = [
        ("video", f"{console.clock(planned.video_s)}, {planned.pictures} pictures"),
        ("windows", f"{planned.windows}, the first is final after {planned.steps_to_first_window} window steps"),
        ("window steps", f"{planned.window_steps}, {planned.passes} passes of the transformer"),
        ("disk", f"{planned.cache_bytes / 1e6:.0f} MB in the render folder, and about {_mb(planned)} MB for the video"),
        ("memory", f"{planned.memory_bytes / 2**30:.1f} GiB, {planned.memory_basis}"),
        ("time", f"{time_text} ({planned.time_basis})"),
    ]
    return console.table(("PLAN", ""), rows)


def _mb(planned: Estimate) -> int:
    """Return the megabytes of the finished video and of its segments, which lie in the render folder beside it."""
    return max(round(2 * planned.video_bytes / 1e6), 1)


def run_job(job: RenderJob, force: bool, command: str, as_json: bool, quiet: bool, kind: Any) -> None:
    """Render a job under a progress display, and write what came out."""
    from avatarctl.render import render

    began = time.monotonic()  # what is imported and loaded is part of the time
    with console.warnings_as_notes(), console.progress("none" if quiet and kind == "auto" else kind) as show:
        done: Rendered | None = render(job, force, show)
    if done is None:
        return  # process 0 of the launcher tells
    wall_s = time.monotonic() - began
    data = {
        "output": str(done.output),
        "video_s": round(done.video_s, 3),
        "pictures": done.pictures,
        "window_steps": done.window_steps,
        "wall_s": round(wall_s, 3),
        "contact_sheet": str(done.contact_sheet) if done.contact_sheet else None,
    }
    console.note(f"{done.output}: {console.clock(done.video_s)} of video in {console.clock(wall_s)}")
    console.result(command, data, str(done.output), as_json)
