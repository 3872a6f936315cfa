"""Build the transformer to train: loaded or new, groups set, LoRA attached."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from avatarctl.errors import WeightsError
from avatarctl.networks import checkpoints
from avatarctl.networks.adapters import attach
from avatarctl.networks.dims import TransformerDims
from avatarctl.networks.float8 import to_float8
from avatarctl.networks.header import WEIGHTS_HINT, refuse_damaged
from avatarctl.networks.kinds import build_transformer
from avatarctl.networks.transformer import StableAvatarTransformer3DModel
from avatarctl.settings.train import TrainSettings
from avatarctl.training.draws import seed_of
from avatarctl.weights import find_transformer

TEXT_LEN = 512


def base_file(settings: TrainSettings) -> Path | None:
    """Return the file of weights to start from; None for a new transformer."""
    if settings.dims is not None:
        return None
    given = settings.weights is not None and settings.weights.is_file()
    path = settings.weights if given and settings.weights else find_transformer(settings.weights, settings.variant)
    refuse_damaged(path, "a transformer", WEIGHTS_HINT)
    return path


def make_model(
    settings: TrainSettings, shapes: Mapping[str, tuple[int, ...]] | None, stored: bool = False
) -> StableAvatarTransformer3DModel:
    """Load or make the transformer, in float32 on the CPU, and set which of its weights train.

    ``shapes``: those of the samples that it has to fit; None: the settings' dims are complete. ``stored``: frozen weights
    stay as they are stored, in the mapped file.
    """
    file = base_file(settings)
    if file is None:
        dims = new_dims(settings, shapes) if shapes is not None else TransformerDims.parse(settings.dims or {})
        model = new_transformer(settings, dims)
    else:
        model = checkpoints.load_transformer(file, dtype=None if stored else torch.float32)
    if shapes is not None:
        check_fits(model.dims, shapes, str(file or "dims"))
    torch.manual_seed(seed_of(settings.seed, "lora"))  # the LoRA's down-weights
    attach(model, settings.modes, settings.rank, settings.alpha, settings.dropout)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32, copy=stored)  # never the mapped file itself
    if settings.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    return model.train()


def new_dims(settings: TrainSettings, shapes: Mapping[str, tuple[int, ...]]) -> TransformerDims:
    """Return the sizes of a new transformer: those that the settings name, the rest as the samples need them."""
    channels = shapes["latents"][0]
    from_data = {
        "text": shapes["text"][-1],
        "clip": shapes["image_tokens"][-1],
        "w2v": shapes["speech"][-1],
        "in_dim": channels + shapes["condition"][0],
        "out_dim": channels,
    }
    return TransformerDims.parse({**from_data, "text_len": TEXT_LEN, **(settings.dims or {})})


def new_transformer(settings: TrainSettings, dims: TransformerDims) -> StableAvatarTransformer3DModel:
    """Return a transformer with random weights; its output layer begins at zero.

    An output of zero makes the first steps predict the mean, not noise (Peebles and Xie 2023, adaLN-Zero).
    """
    torch.manual_seed(seed_of(settings.seed, "weights"))
    model = build_transformer(dims)
    nn.init.zeros_(model.proj_out.weight)
    nn.init.zeros_(model.proj_out.bias)
    return model


def check_fits(dims: TransformerDims, shapes: Mapping[str, tuple[int, ...]], source: str) -> None:
    """Raise ``WeightsError`` naming every size in which samples and transformer differ."""
    channels = shapes["latents"][0]
    pairs = {
        "latent channels": (channels, dims.out_dim),
        "latent and condition channels": (channels + shapes["condition"][0], dims.in_dim),
        "width of text states": (shapes["text"][-1], dims.text),
        "width of image tokens": (shapes["image_tokens"][-1], dims.clip),
        "width of speech states": (shapes["speech"][-1], dims.w2v),
    }
    wrong = [f"{what}: samples have {got}, the transformer {has}" for what, (got, has) in pairs.items() if got != has]
    if shapes["text"][0] > dims.text_len:
        wrong.append(f"text: samples have up to {shapes['text'][0]} tokens, the transformer takes {dims.text_len}")
    if wrong:
        raise WeightsError(
            f"{source}: the samples were encoded by other networks: {'; '.join(wrong)}",
            "encode them with the weights, and the text_len, that belong to this transformer",
        )


def place_model(
    model: StableAvatarTransformer3DModel, settings: TrainSettings, dtype: torch.dtype, whole: bool
) -> StableAvatarTransformer3DModel:
    """Store frozen weights in ``dtype`` or float8; what trains stays float32. ``whole``: shards need one dtype throughout."""
    if not whole:
        keep = model._keep_in_fp32_modules
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad and not any(piece in name.split(".") for piece in keep):
                parameter.data = parameter.data.to(dtype)
    if settings.base_dtype == "float8":
        to_float8(model)
    return model


def full_weights(model: StableAvatarTransformer3DModel) -> dict[str, Tensor]:
    """Return copies of the weights that train in full beside a LoRA."""
    trains = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {name: parameter.detach().clone() for name, parameter in trains.items() if ".lora_" not in name}
