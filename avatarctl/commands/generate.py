"""`avatarctl generate` and `avatarctl resume`: render a video, or continue an interrupted render."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from avatarctl import console, ownership
from avatarctl.commands import options as o
from avatarctl.errors import InputFileError, UsageError
from avatarctl.progress import showing

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
    guidance_interval: o.GuidanceInterval = None,
    guidance_reuse: o.GuidanceReuse = None,
    solver: o.Solver = None,
    schedule: o.Schedule = None,
    shift: o.Shift = None,
    window_batch: o.WindowBatch = None,
    start: o.Start = None,
    duration: o.Duration = None,
    audio_track: o.AudioTrack = None,
    trim_silence: o.TrimSilence = None,
    separate_vocals: o.SeparateVocals = None,
    loudness: o.Loudness = None,
    fit: o.Fit = None,
    face: o.Face = None,
    weights: o.Weights = None,
    variant: o.Variant = None,
    lora: o.Lora = None,
    device: o.Device = None,
    dtype: o.Dtype = None,
    memory: o.Memory = None,
    weights_dtype: o.WeightsDtype = None,
    matmul_dtype: o.MatmulDtype = None,
    attention: o.Attention = None,
    compile: o.Compile = None,
    vae_dtype: o.VaeDtype = None,
    vae_tiling: o.VaeTiling = None,
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
    accept_changes: o.AcceptChanges = False,
    show_crop: o.ShowCrop = None,
    evaluate: o.Evaluate = False,
    dry_run: o.DryRun = False,
    for_card: o.ForCard = None,
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
        "guidance_interval": guidance_interval,
        "guidance_reuse": guidance_reuse,
        "solver": solver,
        "schedule": schedule,
        "shift": shift,
        "window_batch": window_batch,
        "start_s": start,
        "duration_s": duration,
        "audio_track": audio_track,
        "trim_silence": trim_silence,
        "separate_vocals": separate_vocals,
        "loudness_dbfs": loudness,
        "fit": fit,
        "face": face,
        "weights": weights,
        "variant": variant,
        "lora": tuple(lora) if lora else None,
        "device": device,
        "dtype": dtype,
        "memory": memory,
        "weights_dtype": weights_dtype,
        "matmul_dtype": matmul_dtype,
        "attention": attention,
        "compile": compile,
        "vae_dtype": vae_dtype,
        "vae_tiling": vae_tiling,
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
    if output is not None:
        ownership.check_name(output, "--output", "the name of a video", "--output talk.mp4")
    if work_dir is not None:
        ownership.check_name(work_dir, "--work-dir", "a folder for the render", "--work-dir talk.render")
    if show_settings:
        _show_settings(preset, {**flags, "image": image}, audio, as_json)
        return
    from avatarctl.settings.jobs import render_job

    job = render_job(
        image,
        audio,
        output,
        preset,
        flags,
        work_dir=work_dir,
        frames=frames,
        keep=keep,
        accept_changes=accept_changes,
    )
    if for_card is not None and not dry_run:
        raise UsageError(f"--for {for_card}: got it without --dry-run, expected both", "add --dry-run")
    if dry_run:
        _dry_run(job, force, as_json, show_crop, for_card)
    elif show_crop is not None:
        write_crop(job, show_crop, force, "generate", as_json)
    else:
        run_job(job, force, "generate", as_json, quiet, progress, evaluate)


def resume(
    render: Annotated[
        Path | None,
        typer.Argument(
            metavar="RENDER", help="Render folder, or the video it makes; else the interrupted one below this folder."
        ),
    ] = None,
    memory: o.Memory = None,
    device: o.Device = None,
    dtype: o.Dtype = None,
    weights_dtype: o.WeightsDtype = None,
    matmul_dtype: o.MatmulDtype = None,
    attention: o.Attention = None,
    compile: o.Compile = None,
    vae_dtype: o.VaeDtype = None,
    vae_tiling: o.VaeTiling = None,
    accept_changes: o.AcceptChanges = False,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
    progress: o.Progress = "auto",
) -> None:
    """Resume an interrupted render: same inputs, same video, to the byte.

    Example: avatarctl resume talk.mp4.render
    """
    from avatarctl.render.folder import RenderFolder
    from avatarctl.render.inputs import job_of as job_in
    from avatarctl.render.standing import standing

    console.quiet(quiet)
    path = render_folder(render, "avatarctl resume") if render is not None else _interrupted(as_json or quiet)
    job = job_in(RenderFolder(path).manifest()).model_copy(update={"work_dir": path, "accept_changes": accept_changes})
    flags = {
        "memory": memory,
        "device": device,
        "dtype": dtype,
        "weights_dtype": weights_dtype,
        "matmul_dtype": matmul_dtype,
        "attention": attention,
        "compile": compile,
        "vae_dtype": vae_dtype,
        "vae_tiling": vae_tiling,
    }
    changes = {name: value for name, value in flags.items() if value is not None}
    if changes:
        from avatarctl.settings.check import make
        from avatarctl.settings.placement import PlacementSettings

        job = job.model_copy(update={"placement": make(PlacementSettings, {**job.placement.model_dump(), **changes})})
    now = standing(path)
    if now.percent != 100:
        console.note(f"resuming {path}: {now.words()}")
    run_job(job, False, "resume", as_json, quiet, progress)


def _interrupted(silent: bool) -> Path:
    """Return the one interrupted render that is meant: of several below this folder, or else anywhere, the user says which."""
    from avatarctl.render.known import known_renders
    from avatarctl.render.standing import standing

    here = Path.cwd()
    found = [known for known in known_renders(here) if known.state == "interrupted"]
    near = [known for known in found if known.path.resolve().is_relative_to(here)]
    found = near or found
    if not found:
        raise UsageError("resume: no interrupted render is known", "name its folder: avatarctl resume FOLDER")
    if len(found) == 1:
        return found[0].path
    paths = [str(known.path.relative_to(here)) if near else str(known.path) for known in found]
    lines = [f"  {path} ({standing(Path(path)).words()})" for path in paths]
    if silent or not console.can_ask():
        raise UsageError(
            f"resume: {len(found)} renders are interrupted{' below this folder' if near else ''}, expected the name of one:\n"
            + "\n".join(lines),
            f"such as: avatarctl resume {shlex.quote(paths[0])}",
        )
    console.note("\n".join(f"{number}.{line[1:]}" for number, line in enumerate(lines, 1)))
    number = typer.prompt("resume which one? Its number", type=int, err=True)
    if not 1 <= number <= len(found):
        raise UsageError(f"resume: got {number}, expected 1 to {len(found)}", "run avatarctl resume again")
    return found[number - 1].path


def render_folder(path: Path, command: str) -> Path:
    """Return the render folder that a user means: itself, or the one of the video named."""
    from avatarctl.paths import derived

    ownership.check_render_name(path, command)
    beside = derived(path, after=".render")
    return beside if not path.is_dir() and beside.is_dir() else path


def _show_settings(preset: str | None, flags: dict[str, Any], audio: Path, as_json: bool) -> None:
    from avatarctl.commands.settings_text import settings_table
    from avatarctl.settings import presets

    rows = presets.explain("render", preset, flags)
    inputs = {"audio": {"value": str(audio), "source": "--audio", "does": "Recording of the voice."}}
    text = settings_table({**inputs, **rows})
    console.result("generate", {"settings": rows, "inputs": inputs}, text, as_json, status="dry run")


def write_crop(job: RenderJob, target: Path, force: bool, command: str, as_json: bool) -> None:
    """Write the picture as the video will frame it, and what there is to say of it."""
    from avatarctl.networks.images import framing as cut_off
    from avatarctl.networks.images import look_at
    from avatarctl.render import crop

    crop.check_show_crop(job, target, force)
    picture, seen = look_at(job.image)
    notes = (*seen, *cut_off(job.image, picture.size, job.render.size, job.render.fit))
    framing = crop.frame(job)
    if framing is not None:
        notes += framing.warnings
        console.note(framing.words())
    for note in notes:
        console.note(f"warning: {note}")
    crop.show_crop(job, framing, target)
    console.result(
        command, {"show_crop": str(target), **crop.framing_json(framing), "notes": notes}, str(target), as_json
    )


def _dry_run(job: RenderJob, force: bool, as_json: bool, show_crop: Path | None, for_card: str | None) -> None:
    from avatarctl.networks.cards import card_named
    from avatarctl.render import crop, room
    from avatarctl.render.rehearse import rehearse
    from avatarctl.settings.student import in_words, students

    if show_crop is not None:
        crop.check_show_crop(job, show_crop, force)
    rehearsal = rehearse(job, force, None if for_card is None else card_named(for_card))
    framing = rehearsal.framing
    notes = (*rehearsal.checked.notes, *(framing.warnings if framing else ()))
    for note in notes:
        console.note(f"warning: {note}")
    if show_crop is not None:
        crop.show_crop(job, framing, show_crop)
    disks = [
        {"folder": str(disk.folder), "bytes": disk.bytes, "free_bytes": disk.free_bytes} for disk in rehearsal.disks
    ]
    data = {**rehearsal.planned.to_json(), "notes": notes, "disks": disks, **crop.framing_json(framing)}
    if show_crop is not None:
        data["show_crop"] = str(show_crop)
    distilled = students(job.lora)
    data["students"] = [{"file": path.name, "scale": scale, **student} for path, scale, student in distilled]
    words = [in_words(path, student) for path, _, student in distilled]
    text = _plan_text(rehearsal.planned, room.in_words(rehearsal.disks), framing.words() if framing else "", words)
    console.result("generate", data, text, as_json, status="dry run")


def _plan_text(planned: Estimate, disks: str, framing: str, students: list[str]) -> str:
    time_text = "unknown" if planned.time_s is None else console.clock(planned.time_s)
    rows = [
        ("video", f"{console.clock(planned.video_s)}, {planned.pictures} pictures"),
        *([("picture", framing)] if framing else []),
        *(("LoRA", words) for words in students),
        ("passes", f"{planned.window_steps} over {planned.windows} windows, {planned.passes} of the network"),
        ("first part", f"can be watched after {planned.steps_to_first_window} passes"),
        ("in flight", f"{planned.in_flight} windows at most, {console.size(planned.in_flight_bytes)} of main memory"),
        ("disk", disks),
        ("memory", _memory_text(planned)),
        ("time", f"{time_text} ({planned.time_basis})"),
    ]
    return console.table(("PLAN", ""), rows)


def _memory_text(planned: Estimate) -> str:
    """Return what the device has to hold, and in which mode it does."""
    text = f"{planned.memory_bytes / 2**30:.1f} GiB, {planned.memory_basis}"
    if planned.free_bytes is None:
        return text
    tiles = f", the VAE in {planned.tiles} tiles" if planned.tiles else ""
    return f"{planned.memory}{tiles}: {text}; {planned.free_bytes / 2**30:.1f} GiB free"


def run_job(
    job: RenderJob, force: bool, command: str, as_json: bool, quiet: bool, kind: Any, evaluate: bool = False
) -> None:
    """Render a job under a progress display, and write what came out; ``evaluate``: with what is measured of it."""
    from avatarctl.render import render
    from avatarctl.render.crop import framing_json

    began = time.monotonic()  # what is imported and loaded is part of the time
    with console.warnings_as_notes(), showing("none" if quiet and kind == "auto" else kind) as show:
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
        "notes": done.notes,
        **framing_json(done.framing),
    }
    if done.wall_s:  # else nothing was left to do
        console.note(f"{done.output}: {console.clock(done.video_s)} of video in {console.clock(wall_s)}")
    if evaluate:
        data["evaluation"] = _evaluation(job, done, quiet, kind)
    console.result(command, data, str(done.output), as_json)


def _evaluation(job: RenderJob, done: Rendered, quiet: bool, kind: Any) -> dict[str, Any] | None:
    """Return the row of a video that was made, and show it; what can't be measured costs no video."""
    from avatarctl.evaluation.renders import evaluate_render
    from avatarctl.evaluation.table import table_of

    try:
        with showing("none" if quiet and kind == "auto" else kind, "pictures") as show:
            row = evaluate_render(job, done.pictures, done.framing, show)
    except InputFileError as problem:
        console.note(f"warning: not measured: {problem.message}")
        return None
    for note in row["notes"]:
        console.note(note)
    console.note(table_of([row]))
    return row
