"""Compute what validation videos are conditioned on, once, before the transformer is there, and keep it in the run's folder."""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from avatarctl.audio.decode import probe, write_waveform
from avatarctl.audio.speech import speech_states
from avatarctl.console import note
from avatarctl.errors import InputFileError
from avatarctl.networks import checkpoints as weights
from avatarctl.networks.conditions import image_tokens, prompt_states, reference_condition
from avatarctl.networks.images import load_image, look_at
from avatarctl.networks.text_stream import stream_text_encoder
from avatarctl.render.crop import frame
from avatarctl.render.inputs import plan_of
from avatarctl.sampling.predict import Conditions
from avatarctl.sampling.windows import Plan, Window
from avatarctl.settings.check import make
from avatarctl.settings.presets import resolve
from avatarctl.settings.render import AllSettings, RenderJob, RenderSettings
from avatarctl.settings.student import WITHOUT
from avatarctl.settings.train import TrainSettings
from avatarctl.training import checkpoints
from avatarctl.weights import WeightFiles, checksum, find_weights

FOLDER = "validation"


@dataclass(frozen=True)
class Video:
    """A validation video: its picture, its recording, how it is rendered, and the networks that read both."""

    number: int
    image: Path
    audio: Path
    render: RenderSettings
    files: WeightFiles

    def name(self, step: int) -> str:
        """Return its file's name at a step."""
        return f"step-{step:08d}-{self.number:02d}.mp4"

    def key(self, text_len: int) -> str:
        """Return a hash of all that its conditions depend on."""
        roles = {role: checksum(path) for role, path in self.files.by_role().items() if role != "transformer"}
        sums = [checksum(self.image), checksum(self.audio), *(f"{role}={sum_}" for role, sum_ in sorted(roles.items()))]
        settings = self.render.model_dump_json(exclude={"seed", "steps", "guidance"})
        return hashlib.sha256("\n".join([*sums, settings, str(text_len)]).encode()).hexdigest()[:16]

    def place(self, run: Path, text_len: int) -> Path:
        """Return the file that keeps its conditions."""
        return run / FOLDER / "conditions" / f"{self.number:02d}-{self.key(text_len)}.safetensors"


def videos_of(settings: TrainSettings) -> list[Video]:
    """Return the validation videos of a run, every input looked at; raises the error of the first that can't be used."""
    if not settings.validate_every:
        return []
    values, places = resolve(AllSettings.model_fields, settings.validation_preset, {})
    render = make(AllSettings, values, places).part(RenderSettings)
    given = settings.weights
    # The other networks: in the folder that the settings name, or beside the transformer file that they name.
    folder = given.parent if given and given.is_file() else given
    files = find_weights(folder, render.size, settings.variant, Path())
    found = []
    for number, (image, audio) in enumerate(zip(settings.validation_images, settings.validation_audio, strict=True)):
        for path, what, flag in ((image, "a picture", "validation_images"), (audio, "a recording", "validation_audio")):
            if not path.exists():
                raise InputFileError(
                    f"{flag}: got no such file: {path}, expected {what}",
                    f"check the path; it is looked for from {Path.cwd()}; --set validate_every=0 renders none",
                )
        look_at(image)
        probe(audio, render.audio_track)
        own: dict[str, Any] = dict(_of_student(settings))
        if prompts := settings.validation_prompts:
            own["prompt"] = prompts[number % len(prompts)]
        if seeds := settings.validation_seeds:
            own["seed"] = seeds[number % len(seeds)]
        found.append(Video(number, image, audio, render.model_copy(update=own), files))
    return found


def _of_student(settings: TrainSettings) -> dict[str, Any]:
    """Return how a student's videos are rendered, as `generate` does by what its file says."""
    if not settings.is_student:
        return {}
    steps = {"steps": settings.distill_steps} if settings.distill == "steps" else {}
    return {**steps, "schedule": "uniform", "solver": "euler", "shift": settings.shift, "guidance": "none", **WITHOUT}


@dataclass
class Ready:
    """The conditions of a video as they were kept, on the CPU."""

    tensors: dict[str, Tensor]
    plan: Plan
    waveform: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.waveform = self.tensors["waveform"]

    def conditions(self) -> Conditions:
        """Return them as the sampler reads them."""

        def speech(window: Window) -> Tensor:
            return self.tensors[f"speech_{window.index:04d}"]

        return Conditions(
            self.tensors["positive"], self.tensors["negative"], self.tensors["image"], self.tensors["reference"], speech
        )


def load_conditions(video: Video, run: Path, text_len: int) -> Ready:
    """Return the kept conditions of a video."""
    tensors = checkpoints.load_tensors(video.place(run, text_len))
    return Ready(tensors, plan_of(video.render, len(tensors["waveform"])))


@torch.no_grad()
def prepare_conditions(videos: list[Video], run: Path, text_len: int, device: torch.device) -> None:
    """Compute the conditions of the videos that lack them, one network at a time on the device, and keep them."""
    missing = [video for video in videos if not video.place(run, text_len).exists()]
    if not missing:
        return
    note(f"conditions of {len(missing)} validation videos are computed, once")
    found: list[dict[str, Tensor]] = [{} for _ in missing]
    files = missing[0].files
    texts = [text for video in missing for text in (video.render.prompt, video.render.negative_prompt)]
    prompts = list(dict.fromkeys(texts))
    states = _text_states(prompts, files, text_len, device)
    crops = [frame(RenderJob(image=v.image, audio=v.audio, output=Path("video.mp4"), render=v.render)) for v in missing]
    pictures = []
    for video, crop in zip(missing, crops, strict=True):
        box = None if crop is None else crop.box
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture, _ = load_image(video.image, *video.render.size, video.render.fit, box)
        pictures.append(picture.to(device))
    encoder: Any = weights.load_image_encoder(files.image_encoder, device=device)
    for own, picture in zip(found, pictures, strict=True):
        own["image"] = image_tokens(encoder, picture).float()
    del encoder
    speech: Any = weights.load_speech_encoder(files.speech_encoder, device=device)
    plans = []
    for video, own in zip(missing, found, strict=True):
        own["waveform"] = torch.from_numpy(_waveform(video))
        plan = plan_of(video.render, len(own["waveform"]))
        plans.append(plan)
        for window in plan.windows():
            own[f"speech_{window.index:04d}"] = _speech(speech, own["waveform"], window)
    del speech
    vae = weights.load_vae(files.vae, device=device)
    for video, own, picture, plan in zip(missing, found, pictures, plans, strict=True):
        own["reference"] = reference_condition(vae, picture, plan.window)
        own["positive"], own["negative"] = states[video.render.prompt][None], states[video.render.negative_prompt][None]
    del vae
    if device.type == "cuda":
        torch.cuda.empty_cache()
    for video, own in zip(missing, found, strict=True):
        checkpoints.save_tensors(video.place(run, text_len), {name: tensor.cpu() for name, tensor in own.items()})


def _text_states(prompts: list[str], files: WeightFiles, text_len: int, device: torch.device) -> dict[str, Tensor]:
    tokenizer = weights.load_tokenizer(files.tokenizer)
    encoder = stream_text_encoder(weights.load_text_encoder(files.text_encoder, dtype=None), device, torch.float32)
    states = prompt_states(prompts, tokenizer, encoder, text_len, device)
    return {prompt: each.float().cpu() for prompt, each in zip(prompts, states, strict=True)}


def _waveform(video: Video) -> Any:
    """Return what lips hear of a video's recording at 16 kHz."""
    settings = video.render
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "voice.f32"
        write_waveform(video.audio, target, settings.start_s, settings.duration_s, None, settings.audio_track)
        return np.fromfile(target, "<f4")


def _speech(encoder: Any, waveform: Tensor, window: Window) -> Tensor:
    samples = np.zeros(window.last_sample - window.first_sample, np.float32)
    known = waveform[window.first_sample : window.last_sample].numpy()
    samples[: len(known)] = known
    return speech_states(encoder, samples).float().cpu()
