"""Prepare what window steps need: the decoded sound, the networks in their places, the conditions."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from avatarctl.audio.speech import speech_states
from avatarctl.networks import checkpoints
from avatarctl.networks.adapters import merge_lora
from avatarctl.networks.conditions import image_tokens, prompt_states, reference_condition
from avatarctl.networks.images import load_image
from avatarctl.networks.memory import PARAMETERS
from avatarctl.networks.placement import DeviceResidency, Placement, place
from avatarctl.networks.vae import Tiling
from avatarctl.render import texts
from avatarctl.render.folder import RenderFolder
from avatarctl.render.inputs import Checked
from avatarctl.render.sound import WAVEFORM
from avatarctl.sampling.predict import Conditions
from avatarctl.sampling.team import launched
from avatarctl.sampling.windows import Plan, Window
from avatarctl.settings.placement import PlacementSettings
from avatarctl.weights import checksum

CONDITIONS = "conditions.safetensors"


def own_device(settings: PlacementSettings) -> PlacementSettings:
    """Return each process of a launcher its own GPU."""
    if not launched() or settings.device == "cpu" or not torch.cuda.is_available():
        return settings
    return settings.model_copy(update={"device": f"cuda:{os.environ.get('LOCAL_RANK', '0')}"})


# -- Sound ----------------------------------------------------------------------------------------------------------


def speech_of(folder: RenderFolder, plan: Plan, encoder: Any) -> Callable[[Window], torch.Tensor]:
    """Return the function that hears a window: its samples from the waveform file, silence past the end."""

    def speech_of_window(window: Window) -> torch.Tensor:
        samples = np.zeros(window.last_sample - window.first_sample, np.float32)
        count = max(min(window.last_sample, plan.samples) - window.first_sample, 0)
        # Read, not mapped: pages of a mapped file would count as memory of this process.
        known = np.fromfile(folder.path / WAVEFORM, "<f4", count, offset=4 * window.first_sample)
        samples[: len(known)] = known
        return speech_states(encoder, samples).float()

    return speech_of_window


# -- Networks and conditions ----------------------------------------------------------------------------------------


@dataclass
class Networks:
    """The networks that stay for the whole render."""

    transformer: Any
    vae: Any
    speech_encoder: Any
    placement: Placement


def load_networks(checked: Checked, placement: Placement) -> Networks:
    """Load transformer (with its LoRAs merged), VAE and speech encoder, and place them."""
    files, device = checked.weights, placement.load_device
    transformer = checkpoints.load_transformer(
        files.transformer, dtype=placement.dtype_of("transformer"), device=device
    )
    for path, scale in checked.job.lora:
        merge_lora(transformer, path, scale)
    vae = checkpoints.load_vae(files.vae, dtype=placement.dtype_of("vae"), device=device)
    speech = checkpoints.load_speech_encoder(
        files.speech_encoder, dtype=placement.dtype_of("speech encoder"), device=device
    )
    return Networks(place(transformer, placement), place(vae, placement), place(speech, placement), placement)


class LoadedNetworks:
    """The networks of the last render of this process, for the next one with the same weights in the same places."""

    def __init__(self) -> None:
        self._loaded: tuple[Any, Networks, DeviceResidency] | None = None

    def load(self, checked: Checked, placement: Placement) -> tuple[Networks, DeviceResidency]:
        """Return the networks of a render, and who is on the device: loaded only when they are other than the last ones."""
        files, loras = checked.weights, checked.job.lora
        paths = (files.transformer, files.vae, files.speech_encoder, *(path for path, _ in loras))
        key = ([checksum(path) for path in paths], [scale for _, scale in loras], placement)
        if self._loaded is None or self._loaded[0] != key:
            self.clear()  # before: both may not fit
            self._loaded = (key, load_networks(checked, placement), DeviceResidency(placement))
        return self._loaded[1], self._loaded[2]

    def clear(self) -> None:
        """Forget them, so that their memory can be used."""
        self._loaded = None
        gc.collect()
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def make_conditions(
    checked: Checked, networks: Networks, residency: DeviceResidency, folder: RenderFolder, plan: Plan
) -> Conditions:
    """Make text states, image tokens and the reference condition once per render, and keep them in the folder."""
    tensors = folder.read_tensors(CONDITIONS)
    if tensors is None:
        tensors = _encode(checked, networks, residency, plan)
        folder.write_tensors(CONDITIONS, {name: tensor.cpu() for name, tensor in tensors.items()})

    hear_window = speech_of(folder, plan, networks.speech_encoder)

    def speech_of_window(window: Window) -> torch.Tensor:
        residency.use(networks.speech_encoder)
        states = hear_window(window)
        residency.use(networks.transformer)
        return states

    return Conditions(
        tensors["positive"], tensors["negative"], tensors["image"], tensors["reference"], speech_of_window
    )


def _encode(checked: Checked, networks: Networks, residency: DeviceResidency, plan: Plan) -> dict[str, torch.Tensor]:
    job, files, placement = checked.job, checked.weights, networks.placement
    width, height = job.render.size
    picture, notes = load_image(job.image, width, height, job.render.fit)
    for text in notes:
        warnings.warn(text, stacklevel=2)

    positive, negative = _text_states([job.render.prompt, job.render.negative_prompt], checked, networks, residency)

    dtype, device = placement.dtype_of("image encoder"), placement.load_device
    image_encoder = place(checkpoints.load_image_encoder(files.image_encoder, dtype=dtype, device=device), placement)
    image = image_tokens(residency.use(image_encoder), picture.to(placement.device))
    residency.drop(image_encoder)
    del image_encoder

    tiling = Tiling() if job.placement.vae_tiling else None
    reference = reference_condition(residency.use(networks.vae), picture.to(placement.device), plan.window, tiling)
    return {
        "positive": positive[None].float(),
        "negative": negative[None].float(),
        "image": image.float(),
        "reference": reference,
    }


def _text_states(
    prompts: list[str], checked: Checked, networks: Networks, residency: DeviceResidency
) -> list[torch.Tensor]:
    """Return the states (L, D) of each prompt, kept ones where there are: only for new prompts the encoder is loaded."""
    files, placement, text_len = checked.weights, networks.placement, networks.transformer.dims.text_len
    places = texts.places(prompts, files, placement, text_len)
    kept = [texts.read(path) for path in places]
    missing = [index for index, states in enumerate(kept) if states is None]
    if missing:
        tokenizer = checkpoints.load_tokenizer(files.tokenizer)
        dtype = placement.dtype_of("text encoder")
        # Eleven gigabytes for one use: streamed, unless the device has room to spare.
        text_bytes = PARAMETERS["text encoder"] * dtype.itemsize
        whole = placement.memory in ("group", "sequential") or placement.has_room(text_bytes)
        text_placement = placement if whole else placement.streamed()
        text_encoder = checkpoints.load_text_encoder(files.text_encoder, dtype=dtype, device=text_placement.load_device)
        text_encoder = place(text_encoder, text_placement)
        on_device = residency.use(text_encoder) if whole else text_encoder
        wanted = [prompts[index] for index in missing]
        made = prompt_states(wanted, tokenizer, on_device, text_len, placement.device)
        residency.drop(text_encoder)
        del text_encoder, on_device
        for index, states in zip(missing, made, strict=True):
            texts.keep(places[index], states, text_len)
            kept[index] = states.cpu()
    return [states for states in kept if states is not None]
