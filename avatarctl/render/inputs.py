"""Check a job before any network is loaded: inputs, plan, manifest. No torch."""

from __future__ import annotations

import json
import os
import shlex
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from avatarctl import __version__, durable, ownership, threads
from avatarctl.audio.decode import probe
from avatarctl.audio.source import AudioInfo
from avatarctl.errors import ChangedError, InputFileError, UsageError, WeightsError
from avatarctl.networks import devices
from avatarctl.networks.header import WEIGHTS_HINT, kind_of, refuse_damaged, refuse_damaged_lora
from avatarctl.paths import EMBEDDED_PICTURES, embedded_avatar
from avatarctl.render import pngs
from avatarctl.render.crop import Framing
from avatarctl.render.delivered import wrote
from avatarctl.render.folder import MANIFEST_VERSION, RenderFolder
from avatarctl.render.numbers import BEFORE, changed_placement, versions
from avatarctl.render.ours import MANIFEST
from avatarctl.render.subtitles import check_subtitles
from avatarctl.sampling.windows import Plan, plan_windows
from avatarctl.settings import presets
from avatarctl.settings.check import make
from avatarctl.settings.names import key_of
from avatarctl.settings.render import AllSettings, RenderJob, RenderSettings
from avatarctl.settings.student import notes_of, students
from avatarctl.settings.values import other_steps
from avatarctl.weights import Variant, WeightFiles, checksum, find_weights, fingerprint, usable_separator

OLD_FIT = "cover"  # of renders that began before pictures were framed around a face


@dataclass(frozen=True)
class Checked:
    """A job whose inputs were looked at: they exist, are readable, and fit together."""

    job: RenderJob
    audio: AudioInfo
    weights: WeightFiles
    separator: Path | None = None
    """Takes the voice out of music, where that is asked for."""
    notes: tuple[str, ...] = ()
    """What the user should know of the inputs before the render begins."""


@dataclass(frozen=True)
class Rendered:
    """What a render made."""

    output: Path
    video_s: float
    pictures: int
    window_steps: int
    wall_s: float
    contact_sheet: Path | None
    framing: Framing | None = None
    """How the picture is framed, where that is around a face."""
    notes: tuple[str, ...] = ()
    """What the user should know of the inputs."""


def check(job: RenderJob, force: bool = False) -> Checked:
    """Look at every input and at where the output goes; raises the error of the first thing that can't work."""
    for path, what in ((job.image, "a picture"), (job.audio, "a recording")):
        if not path.exists():
            raise InputFileError(f"{path}: got no such file, expected {what}", "check the path")
    from avatarctl.networks.images import framing, look_at  # Pillow alone, no network

    devices.refuse_missing(job.placement.device)
    picture, notes = look_at(job.image)
    audio = probe(job.audio, job.render.audio_track)
    check_output(job.output)
    check_subtitles(job)
    video = job.video
    if video.crf is None and job.render.crf is not None:
        warnings.warn(f"crf: {job.render.crf} has no effect on {video.codec}, whose rate is fixed", stacklevel=2)
    for path, _ in job.lora:
        check_lora(path)
    weights = usable_weights(job.weights, job.render.size, job.variant)
    notes = (
        *notes,
        *framing(job.image, picture.size, job.render.size, job.render.fit),
        *_drawn_alone(job, weights),
        *_students(job, weights),
    )
    checked = Checked(job, audio, weights, separator_of(job), notes)
    check_places(checked, force)
    return checked


def _students(job: RenderJob, weights: WeightFiles) -> list[str]:
    """Return what to warn of where a render isn't what its distilled LoRAs were made for."""
    found = students(job.lora)
    if not found:
        return []
    merged = {checksum(path): scale for path, scale in job.lora}
    return notes_of(found, job.render.model_dump(mode="json"), checksum(Path(weights.transformer)), merged)


def check_lora(path: Path) -> None:
    """Raise an error for a LoRA that isn't there, isn't one, or holds numbers that aren't finite."""
    if not path.is_file():
        hint = "name a .safetensors file, or the run folder of `avatarctl lora train`: RUN or RUN@STEP"
        raise InputFileError(
            f"--lora: got {'a folder' if path.is_dir() else 'no such file'}: {path}, expected a LoRA",
            other_steps(path) or hint,
        )
    refuse_damaged_lora(path)


def usable_weights(folder: Path | None, size: tuple[int, int], variant: Literal["auto"] | Variant) -> WeightFiles:
    """Find every network's weights, each of them whole as far as its ends tell; raises ``WeightsError``."""
    weights = find_weights(folder, size, variant)
    for role, path in weights.by_role().items():
        refuse_damaged(path, f"the {role}", WEIGHTS_HINT)
        if (kind := kind_of(path) or role) != role:
            raise WeightsError(
                f"{path}: got weights of the kind '{kind}', expected {'an' if role[0] in 'aeiou' else 'a'} {role}",
                WEIGHTS_HINT,
            )
    return weights


def _drawn_alone(job: RenderJob, weights: WeightFiles) -> tuple[str, ...]:
    """Say what the embedded avatar makes of pictures that aren't its own."""
    home = embedded_avatar()
    if weights.folder.resolve() != (home / "weights").resolve():
        return ()
    size = job.image.stat().st_size
    for own in (home / "samples" / name for name in EMBEDDED_PICTURES.values()):
        if job.image.samefile(own) or (size == own.stat().st_size and durable.digest(job.image) == durable.digest(own)):
            return ()  # it, or a copy of it
    return (
        f"{job.image}: the embedded avatar knows faces drawn in its own style alone, a photograph doesn't stay itself; for "
        "photographs: `avatarctl fetch stableavatar-1.3b`, then render with --preset square, portrait or landscape",
    )


def separator_of(job: RenderJob) -> Path | None:
    """Return the network that takes the voice out of music, where the job asks for it."""
    return usable_separator(job.weights) if job.render.separate_vocals else None


def check_output(output: Path) -> None:
    """Refuse an output that is no name of a file."""
    ownership.check_name(output, "--output", "the name of a video", "--output talk.mp4")
    if output.is_dir():
        raise UsageError(
            f"{output}: got a folder, expected the name of a video",
            f"such as --output {shlex.quote(str(output / 'talk.mp4'))}",
        )


def inputs_of(checked: Checked) -> list[tuple[str, Path]]:
    """Return every file that a render reads, with what it is."""
    job = checked.job
    files = [("the picture", job.image), ("the recording", job.audio), *(("a LoRA", path) for path, _ in job.lora)]
    files += [("the subtitles", path) for _, path in job.subtitles]
    files += [(f"the weights ({role})", path) for role, path in checked.weights.by_role().items()]
    return files + ([("the vocal separator", checked.separator)] if checked.separator else [])


def outputs_of(job: RenderJob) -> list[Path]:
    """Return the files that a render writes beside its folder: the video, and the contact sheet if there is to be one."""
    return [job.output] + ([job.output.with_suffix(".jpg")] if job.render.contact_sheet_every_s else [])


def check_places(checked: Checked, force: bool) -> None:
    """Refuse places to write to that hold an input, or something that neither this render made nor --force may replace.

    What --force was given for when the render began may be replaced when it is resumed.
    """
    job = checked.job
    folder, inputs = RenderFolder(job.folder), inputs_of(checked)
    ownership.check_name(job.folder, "--work-dir", "a folder for the render", "--work-dir talk.render")
    if os.path.lexists(job.folder) and not job.folder.is_dir():
        raise UsageError(f"{job.folder}: got a file, expected a folder for the render", "choose another --work-dir")
    may_replace = (folder.note_of(MANIFEST) or {}).get("replaces", {})
    for target in outputs_of(job):
        now = ownership.identity(target)
        ours = now is not None and (may_replace.get(str(target.resolve())) == now or wrote(folder, target))
        ownership.check_target(target, "--output", inputs, force, named=job.output, ours=ours)
        ownership.check_can_make(durable.through(target).parent, "--output")
        ownership.check_apart(job.folder, "--work-dir", target, "--output")
    ownership.check_can_make(job.folder, "--work-dir")
    ownership.check_inputs_outside(job.folder, "--work-dir", inputs)
    if job.frames is not None:
        ownership.check_apart(job.folder, "--work-dir", job.frames, "--frames")
        ownership.check_apart(job.output, "--output", job.frames, "--frames")
        pngs.check(job.frames, folder, inputs, force)


def replaced_by(job: RenderJob) -> dict[str, list[int]]:
    """Return what lies where a render writes, as it is now: what --force agrees to replace."""
    found = {str(path.resolve()): ownership.identity(path) for path in outputs_of(job)}
    return {path: status for path, status in found.items() if status is not None}


def plan_of(settings: RenderSettings, samples: int) -> Plan:
    """Return the plan of windows of ``samples`` of sound at 16 kHz."""
    return plan_windows(samples, settings.fps, settings.window, settings.overlap, settings.tail, settings.audio_span)


def manifest_of(checked: Checked) -> dict[str, Any]:
    """Return what render.json holds: inputs and weights with their checksums, every setting, versions."""
    job = checked.job
    content = json.loads(job.model_dump_json())
    for name in ("image", "audio", "output", "work_dir", "frames", "weights"):
        if content[name] is not None:
            content[name] = str(Path(content[name]).resolve())
    # What they come to here, not "auto": the container decides, and another version may decide otherwise.
    content["render"].update(codec=job.video.codec, crf=job.video.crf)
    content["subtitles"] = [[language, str(Path(path).resolve())] for language, path in content["subtitles"]]
    content["lora"] = [[str(Path(path).resolve()), scale] for path, scale in content["lora"]]
    return {
        "version": MANIFEST_VERSION,
        "avatarctl": __version__,
        "libraries": versions(),
        "threads": threads.count(),
        "job": content,
        "inputs": fingerprint(
            [
                ("image", job.image),
                ("audio", job.audio),
                *((f"subtitles {i + 1} ({language})", path) for i, (language, path) in enumerate(job.subtitles)),
            ]
        ),
        "weights": fingerprint(
            [
                *checked.weights.by_role().items(),
                *((f"lora {i + 1}", path) for i, (path, _) in enumerate(job.lora)),
                *([("vocal separator", checked.separator)] if checked.separator else []),
            ]
        ),
    }


def job_of(manifest: Mapping[str, Any]) -> RenderJob:
    """Return the job that a manifest describes."""
    render = {"fit": OLD_FIT, **manifest["job"]["render"]}
    placement = {**BEFORE, **manifest["job"]["placement"]}
    return RenderJob.model_validate_json(json.dumps({**manifest["job"], "render": render, "placement": placement}))


def as_begun(checked: Checked, manifest: Mapping[str, Any]) -> Checked:
    """Return a job as a version without framing began it: its picture was cropped in the middle, and stays so.

    Else the same command, whose default is a face by now, would neither continue nor recognise what it made.
    """
    job = checked.job
    before = manifest["job"]["render"].get("fit", OLD_FIT)
    if "crop" in manifest or (job.render.fit, job.render.face, before) != ("face", None, OLD_FIT):
        return checked
    render = job.render.model_copy(update={"fit": OLD_FIT})
    return replace(checked, job=job.model_copy(update={"render": render}))


def changed_settings(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a render that its preset doesn't say (without one, or if it is gone: that aren't the defaults)."""
    job = job_of(manifest)
    base = _of_preset(job.preset)
    found: dict[str, Any] = {}
    for settings in (job.render, job.placement):
        expected = base.part(type(settings)).model_dump(mode="json")
        for name, value in settings.model_dump(mode="json").items():
            left_open = expected[name] == "auto" or (name == "crf" and expected[name] is None)
            if value != expected[name] and not left_open:  # what was left to the program is noted as it was decided
                found[name] = value
    return found | ({"lora": [[str(path), scale] for path, scale in job.lora]} if job.lora else {})


def _of_preset(name: str | None) -> AllSettings:
    """Return what a preset says now, or the defaults where there is none."""
    try:
        return make(AllSettings, presets.load(name).values, {}) if name else AllSettings()
    except UsageError:
        return AllSettings()


def check_unchanged(old: Mapping[str, Any], new: Mapping[str, Any], folder: Path, accept: bool = False) -> None:
    """Raise ``ChangedError`` naming every input, weight and setting that is not what the render began with.

    ``accept``: what changes only how numbers are computed is accepted (see ``numbers``).
    """
    changes = []
    for group in ("inputs", "weights"):
        before, after = old[group], new[group]
        for name in sorted({*before, *after}):
            was, now = before.get(name), after.get(name)
            if was is None or now is None or was["sha256"] != now["sha256"]:
                changes.append(_another(name, was, now))
    # A setting that is younger than the render has its default there.
    fields = RenderSettings.model_fields
    was_job, now_job = (json.loads(job_of(manifest).model_dump_json()) for manifest in (old, new))
    for name in sorted({*was_job["render"], *now_job["render"]}):
        was, now = was_job["render"].get(name), now_job["render"].get(name)
        if was != now and name not in ("checkpoint_every_s", "preview"):
            changes.append(f"{key_of(name, fields)}: was {was}, is {now}")
    if [scale for _, scale in was_job["lora"]] != [scale for _, scale in now_job["lora"]]:
        changes.append("lora: other scales")
    computing = [] if accept else changed_placement(old, was_job["placement"], now_job["placement"])
    if changes or computing:
        ways = [f"resume with the old ones: avatarctl resume {shlex.quote(str(folder))}"]
        if not changes:
            ways.append("continue with these: the same command with --accept-changes")
        raise ChangedError(
            f"{folder}: this render began with other inputs:\n  " + "\n  ".join([*changes, *computing]),
            "; ".join(ways) + "; or start over with --force",
        )


def _another(name: str, was: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> str:
    """Return what became of an input or of weights since a render began."""
    if was is None or now is None:
        path = (now or was or {}).get("path")
        return f"{name} ({path}): " + ("not there last time" if was is None else "there last time, not now")
    kind = {"image": "picture", "audio": "recording"}.get(name, "file")
    then = "" if was["path"] == now["path"] else f", which was {was['path']}"
    return f"{name} ({now['path']}): another {kind} than last time{then}"


def exact(seconds: float) -> Fraction:
    """Return seconds as a rational number, as written (0.1 is one tenth)."""
    return Fraction(str(seconds))
