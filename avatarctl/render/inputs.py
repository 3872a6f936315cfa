"""Check a job before any network is loaded: inputs, plan, manifest. No torch."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shlex
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from avatarctl import __version__, threads
from avatarctl.audio.decode import AudioInfo, probe
from avatarctl.errors import ChangedError, InputFileError, UsageError
from avatarctl.networks import devices
from avatarctl.paths import embedded_avatar
from avatarctl.render.folder import RenderFolder
from avatarctl.render.subtitles import check_subtitles
from avatarctl.sampling.windows import Plan, plan_windows
from avatarctl.settings.names import key_of
from avatarctl.settings.render import RenderJob, RenderSettings
from avatarctl.weights import WeightFiles, find_separator, find_weights, fingerprint

MANIFEST_VERSION = 1
LIBRARIES = ("torch", "diffusers", "transformers", "numpy", "soxr", "imageio-ffmpeg")
# Placement that changes the numbers; the rest (device, memory mode …) may differ when a render goes on.
PLACEMENT_THAT_COUNTS = ("dtype", "weights_dtype", "vae_tiling")


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


def check(job: RenderJob, force: bool = False) -> Checked:
    """Look at every input and at where the output goes; raises the error of the first thing that can't work."""
    for path, what in ((job.image, "a picture"), (job.audio, "a recording")):
        if not path.exists():
            raise InputFileError(f"{path}: got no such file, expected {what}", "check the path")
    from avatarctl.networks.images import framing, look_at  # Pillow alone, no network

    devices.refuse_missing(job.placement.device)
    picture, notes = look_at(job.image)
    audio = probe(job.audio)
    check_subtitles(job)
    video = job.video
    if video.crf is None and job.render.crf is not None:
        warnings.warn(f"crf: {job.render.crf} has no effect on {video.codec}, whose rate is fixed", stacklevel=2)
    check_output(job.output, force or RenderFolder(job.folder).exists())
    if job.frames is not None:
        _writable(job.frames.parent if not job.frames.exists() else job.frames)
    for path, _ in job.lora:
        if not path.is_file():
            raise InputFileError(
                f"--lora: got {'a folder' if path.is_dir() else 'no such file'}: {path}, expected a LoRA",
                "name a .safetensors file, or the run folder of `avatarctl lora train`",
            )
    weights = find_weights(job.weights, job.render.size, job.variant)
    notes = (*notes, *framing(job.image, picture.size, job.render.size, job.render.fit), *_drawn_alone(job, weights))
    return Checked(job, audio, weights, separator_of(job), notes)


def _drawn_alone(job: RenderJob, weights: WeightFiles) -> tuple[str, ...]:
    """Say what the embedded avatar makes of pictures that aren't its own."""
    home = embedded_avatar()
    own = home / "samples" / "picture.png"
    if weights.folder.resolve() != (home / "weights").resolve() or job.image.samefile(own):
        return ()
    return (
        f"{job.image}: the embedded avatar knows faces drawn in its own style alone, a photograph doesn't stay itself; for "
        "photographs: `avatarctl fetch stableavatar-1.3b`, then render with --preset square, portrait or landscape",
    )


def separator_of(job: RenderJob) -> Path | None:
    """Return the network that takes the voice out of music, where the job asks for it."""
    return usable_separator(job.weights) if job.render.separate_vocals else None


def usable_separator(weights: Path | None) -> Path:
    """Return the network that takes the voice out of music; raises an error where it is missing or can't run."""
    path = find_separator(weights)
    if importlib.util.find_spec("onnxruntime") is None:
        raise UsageError(
            "separate_vocals: got no onnxruntime, which runs the separator",
            "pip install 'avatarctl[vocals]', or render with --no-separate-vocals",
        )
    return path


def check_output(output: Path, may_exist: bool) -> None:
    """Refuse an output that can't be written, or would overwrite something unasked."""
    if output.is_dir():
        raise UsageError(
            f"{output}: got a folder, expected the name of a video",
            f"such as --output {shlex.quote(str(output / 'talk.mp4'))}",
        )
    if output.exists() and not may_exist:
        raise UsageError(f"{output}: exists already", "choose another --output, or overwrite it with --force")
    _writable(output.parent)


def _writable(folder: Path) -> None:
    if not folder.is_dir():
        raise UsageError(f"{folder}: got no such folder", f"make it first: mkdir -p {shlex.quote(str(folder))}")
    if not os.access(folder, os.W_OK):
        raise InputFileError(f"{folder}: got a folder that can't be written", "choose another --output")


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
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
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
    return RenderJob.model_validate_json(json.dumps(manifest["job"]))


def check_unchanged(old: Mapping[str, Any], new: Mapping[str, Any], folder: Path) -> None:
    """Raise ``ChangedError`` naming every input, weight and setting that is not what the render began with."""
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
    for name in PLACEMENT_THAT_COUNTS:
        was, now = was_job["placement"].get(name), now_job["placement"].get(name)
        if was != now:
            changes.append(f"{name}: was {was}, is {now}")
    if [scale for _, scale in was_job["lora"]] != [scale for _, scale in now_job["lora"]]:
        changes.append("lora: other scales")
    if changes:
        raise ChangedError(
            f"{folder}: this render began with other inputs:\n  " + "\n  ".join(changes),
            f"go on with the old ones: avatarctl resume {shlex.quote(str(folder))}; or begin anew with --force",
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
