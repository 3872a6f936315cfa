"""Make a render's conditions once, before the transformer is loaded, and keep them in the render folder."""

from __future__ import annotations

from typing import Any

import torch

from avatarctl.networks import checkpoints
from avatarctl.networks.conditions import image_tokens, prompt_states, reference_condition
from avatarctl.networks.full import during
from avatarctl.networks.images import load_image
from avatarctl.networks.text_stream import stream_text_encoder
from avatarctl.render import texts
from avatarctl.render.crop import framing_in
from avatarctl.render.finite import require_finite_conditions
from avatarctl.render.folder import RenderFolder
from avatarctl.render.inputs import Checked
from avatarctl.render.networks import Networks
from avatarctl.render.prepare import speech_of
from avatarctl.sampling.predict import Conditions
from avatarctl.sampling.windows import Plan, Window

FILE = "conditions.safetensors"


def make_conditions(checked: Checked, networks: Networks, folder: RenderFolder, plan: Plan) -> Conditions:
    """Return text states, image tokens, the reference condition, and the function that hears a window."""
    tensors = folder.read_tensors(FILE)
    if tensors is None:
        with during("conditions"):
            tensors = _encode(checked, networks, plan, folder)
        require_finite_conditions(tensors, networks.files)
        folder.write_tensors(FILE, {name: tensor.cpu() for name, tensor in tensors.items()})

    def speech_of_window(window: Window) -> torch.Tensor:
        encoder = networks.residency.use(networks.speech_encoder)
        states = speech_of(folder, plan, encoder)(window)
        require_finite_conditions({"speech": states}, networks.files)
        networks.residency.use(networks.transformer)
        return states

    return Conditions(
        tensors["positive"], tensors["negative"], tensors["image"], tensors["reference"], speech_of_window
    )


def _encode(checked: Checked, networks: Networks, plan: Plan, folder: RenderFolder) -> dict[str, torch.Tensor]:
    job, device = checked.job, networks.placement.device
    width, height = job.render.size
    framing = framing_in(folder.manifest())
    crop = None if framing is None else framing.box
    picture, _ = load_image(job.image, width, height, job.render.fit, crop)  # what there is to say was said before
    positive, negative = _text_states([job.render.prompt, job.render.negative_prompt], networks)
    image = _image_tokens(picture.to(device), networks)
    vae = networks.residency.use(networks.vae)
    reference = reference_condition(vae, picture.to(device), plan.window, networks.placement.tiling)
    return {
        "positive": positive[None].float(),
        "negative": negative[None].float(),
        "image": image.float(),
        "reference": reference,
    }


def _image_tokens(picture: torch.Tensor, networks: Networks) -> torch.Tensor:
    """Return the image tokens of a picture; the image encoder is gone afterwards."""
    residency = networks.residency
    dtype = networks.placement.dtype_of("image encoder")
    encoder: Any = residency.place(
        checkpoints.load_image_encoder(networks.files.image_encoder, dtype=dtype, device=residency.load_device)
    )
    tokens = image_tokens(residency.use(encoder), picture)
    residency.drop(encoder)
    del encoder
    residency.free()
    return tokens


def _text_states(prompts: list[str], networks: Networks) -> list[torch.Tensor]:
    """Return the states (L, D) of each prompt: cached ones where there are, only for new prompts the encoder is loaded."""
    files, placement, text_len = networks.files, networks.placement, networks.text_len
    places = texts.places(prompts, files, placement, text_len)
    cached = [texts.read(path) for path in places]
    missing = [index for index, states in enumerate(cached) if states is None]
    if missing:
        tokenizer = checkpoints.load_tokenizer(files.tokenizer)
        stored = checkpoints.load_text_encoder(files.text_encoder, dtype=None)
        encoder = stream_text_encoder(stored, placement.device, placement.dtype_of("text encoder"))
        made = prompt_states([prompts[index] for index in missing], tokenizer, encoder, text_len, placement.device)
        for index, states in zip(missing, made, strict=True):
            require_finite_conditions({"positive": states}, files)  # before they are kept for other renders
            texts.keep(places[index], states, text_len)
            cached[index] = states.cpu()
    return [states for states in cached if states is not None]
