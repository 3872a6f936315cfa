"""Load and save networks under released names or ours, strictly: nothing missing, left over or filled in."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    CLIPVisionModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    UMT5EncoderModel,
    Wav2Vec2Model,
)

from avatarctl.errors import UsageError, WeightsError, some
from avatarctl.networks import lean
from avatarctl.networks import names as naming
from avatarctl.networks.dims import Dims, ImageDims, SpeechDims, TextDims, TransformerDims, VaeDims
from avatarctl.networks.kinds import (
    IMAGE_ENCODER,
    NETWORKS,
    SPEECH_ENCODER,
    TEXT_ENCODER,
    TRANSFORMER,
    VAE,
    Network,
    dims_of,
    looks_like,
)
from avatarctl.networks.transformer import StableAvatarTransformer3DModel
from avatarctl.networks.weight_dims import Source, foreign, look_into
from avatarctl.networks.weight_files import Stored, write_weights

# A weight by our name, as it is stored, made another one.
Alter = Callable[[str, Tensor], Tensor]
# A weight that a file lacks, by our name and shape.
Absent = Callable[[str, torch.Size], Tensor]
HALF = (torch.bfloat16, torch.float16)


# -- Loading --------------------------------------------------------------------------------------------------------


def name_map(network: Network, dims: Dims) -> dict[str, list[str]]:
    """Return released name -> our names (one; three where the released file has q, k and v in one) at these sizes."""
    with init_empty_weights(include_buffers=False), lean.nothing_drawn():
        model = network.build(dims)
    return _names_of(model, network, dims)


def _names_of(model: nn.Module, network: Network, dims: Dims) -> dict[str, list[str]]:
    rename = network.names(dims)
    tied = _tied_names(model)
    found: dict[str, list[str]] = {}
    for ours in model.state_dict():
        if ours not in tied:
            found.setdefault(rename(ours), []).append(ours)
    # q, k, v in that order, whatever the order of definition in the module.
    return {released: sorted(ours, key=_qkv_order) for released, ours in found.items()}


def _qkv_order(name: str) -> int:
    return next((i for i, part in enumerate((".q_proj.", ".k_proj.", ".v_proj.")) if part in name), 0)


def _tied_names(model: nn.Module) -> dict[str, str]:
    """Return the names that share another one's weight (umT5's embedding stands in its state dict twice)."""
    return {"encoder.embed_tokens.weight": "shared.weight"} if isinstance(model, UMT5EncoderModel) else {}


def load_network(
    network: Network,
    source: Source,
    dims: Dims | Mapping[str, Any] | None,
    dtype: torch.dtype | None,
    device: str | torch.device,
    alter: Alter | None = None,
    absent: Absent | None = None,
) -> nn.Module:
    """Build a network and fill it from ``source``: released names or ours, every one of them exactly once.

    ``dims`` None: taken from the file's metadata or the folder's config.json, else read off the shapes. ``dtype`` None: the
    weights stay as they are stored, in the mapped file. ``alter`` changes weights before they are rounded to ``dtype``.
    ``absent``: what a transformer's audio layers are where the file has none of them at all (Wan2.1); None: an error.
    Raises ``WeightsError`` with the names that are missing, left over or of another shape.
    """
    stored, tensors, found = look_into(network, source, dims)
    with init_empty_weights(include_buffers=False), lean.nothing_drawn():
        model = network.build(found)
    state = _state_for(model, network, found, stored, tensors, dtype, torch.device(device), alter, absent)
    # Every name was checked; assign puts the tensors in the place of the empty ones without another copy.
    model.load_state_dict(state, strict=True, assign=True)
    if isinstance(model, UMT5EncoderModel):
        model.tie_weights()
    return model.to(device).eval()


def _state_for(
    model: nn.Module,
    network: Network,
    dims: Dims,
    stored: Stored,
    tensors: Mapping[str, str],
    dtype: torch.dtype | None,
    device: torch.device,
    alter: Alter | None,
    absent: Absent | None,
) -> dict[str, Tensor]:
    """Return the model's state dict from the stored tensors, each one checked and cast."""
    expected = model.state_dict()
    names = _names_of(model, network, dims)
    if len(set(tensors) & set(expected)) > len(set(tensors) & set(names)):
        # Mostly our names: one each, except those that are tied and stored once.
        names = {ours: [ours] for ours in expected if ours not in _tied_names(model) or ours in tensors}
    missing, left_over = sorted(set(names) - set(tensors)), sorted(set(tensors) - set(names))
    added: dict[str, Tensor] = {}
    if absent is not None and missing and missing == sorted(name for name in names if naming.is_audio(names[name][0])):
        added = {ours: absent(ours, expected[ours].shape) for name in missing for ours in names.pop(name)}
        missing = []
    if missing or left_over:
        raise foreign(network, stored, tensors, missing, left_over)

    keep_float32 = getattr(model, "_keep_in_fp32_modules", None) or []
    # diffusers means every half precision, transformers float16 alone (umT5's range fits bfloat16).
    narrow = (torch.float16,) if isinstance(model, PreTrainedModel) else HALF
    state: dict[str, Tensor] = {}
    wrong: list[str] = []
    for name, tensor in added.items():
        made = tensor if alter is None else alter(name, tensor)
        keep = dtype in narrow and any(piece in name.split(".") for piece in keep_float32)
        state[name] = made.to(device, torch.float32 if keep or dtype is None else dtype)
    for name, ours in names.items():
        tensor = stored.tensors[tensors[name]]
        for target, part in zip(ours, tensor.chunk(len(ours)) if len(ours) > 1 else [tensor], strict=True):
            shape = expected[target].shape
            # Released CLIP has axes of length one around its class and position embeddings; nothing else may differ.
            if part.shape != shape and tuple(n for n in part.shape if n > 1) != tuple(n for n in shape if n > 1):
                wrong.append(f"{name}: got {tuple(part.shape)}, expected {tuple(shape)}")
                continue
            kind, part = part.dtype, part.reshape(shape)
            if alter is not None:
                part = alter(target, part)
            if dtype is None:  # narrow ones are copied when they are used
                state[target] = part.to(kind) if kind in HALF else _aligned(part.to(kind))
                continue
            keep = dtype in narrow and any(piece in target.split(".") for piece in keep_float32)
            state[target] = _aligned(part.to(device, torch.float32 if keep else dtype))
    if wrong:
        raise WeightsError(
            f"{stored.source}: got {len(wrong)} weights of another shape: {some(wrong, 12)}",
            f"these are {looks_like(tensors)}; pass the dims that they were made with",
        )
    for name, same in _tied_names(model).items():
        state.setdefault(name, state[same])
    return state


def _aligned(tensor: Tensor) -> Tensor:
    """Copy a tensor that lies unaligned in its mapped file: kernels would round its last bits differently elsewhere."""
    return tensor.clone() if tensor.device.type == "cpu" and tensor.data_ptr() % 64 else tensor


def load_transformer(
    path_or_state_dict: Source,
    dims: TransformerDims | Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = torch.float32,
    device: str | torch.device = "cpu",
    alter: Alter | None = None,
    absent: Absent | None = None,
) -> StableAvatarTransformer3DModel:
    """Load the StableAvatar transformer (1.3B, 14B or any other size) from released names or ours.

    ``dtype`` None leaves the weights as they are stored, in the mapped file. ``alter`` changes weights before they are
    rounded to ``dtype``, or to what they are stored as. ``absent``: audio layers for a Wan2.1 transformer, which has none.

    In half precision, time embedding, modulation tables and norms stay in float32, as in the released network.
    """
    model = load_network(TRANSFORMER, path_or_state_dict, dims, dtype, device, alter, absent)
    assert isinstance(model, StableAvatarTransformer3DModel)
    return model


def load_vae(
    path_or_state_dict: Source,
    dims: VaeDims | Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> AutoencoderKLWan:
    """Load the Wan VAE (``Wan2.1_VAE.pth``, or a diffusers folder). Encode and decode with ``networks.vae``."""
    return load_network(VAE, path_or_state_dict, dims, dtype, device)


def load_text_encoder(
    path_or_state_dict: Source,
    dims: TextDims | Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = torch.float32,
    device: str | torch.device = "cpu",
) -> UMT5EncoderModel:
    """Load the umT5 encoder (``models_t5_umt5-xxl-enc-bf16.pth``). Its tokenizer: :func:`load_tokenizer`.

    ``dtype`` None leaves it in the mapped file, for :func:`avatarctl.networks.text_stream.stream_text_encoder`.
    """
    return load_network(TEXT_ENCODER, path_or_state_dict, dims, dtype, device)


def load_image_encoder(
    path_or_state_dict: Source,
    dims: ImageDims | Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> CLIPVisionModel:
    """Load the CLIP vision encoder; the text half that the released file also holds is not read."""
    return load_network(IMAGE_ENCODER, path_or_state_dict, dims, dtype, device)


def load_speech_encoder(
    path_or_state_dict: Source,
    dims: SpeechDims | Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> Wav2Vec2Model:
    """Load wav2vec 2.0 (a folder such as ``wav2vec2-base-960h``, or a file with the names of ``Wav2Vec2Model``)."""
    return load_network(SPEECH_ENCODER, path_or_state_dict, dims, dtype, device)


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """Load the umT5 tokenizer from its folder (``google/umt5-xxl`` of the released weights); never from the network."""
    folder = Path(folder)
    if not any((folder / name).exists() for name in ("tokenizer.json", "spiece.model")):
        raise WeightsError(
            f"{folder}: got no tokenizer.json or spiece.model, expected a tokenizer folder", "run `avatarctl fetch`"
        )
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


# -- Saving ---------------------------------------------------------------------------------------------------------


def released_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the model's weights under released names."""
    dims = dims_of(model)
    state = model.state_dict()
    names = _names_of(model, _network_of(dims), dims)
    return {
        released: torch.cat([state[name] for name in ours]) if len(ours) > 1 else state[ours[0]]
        for released, ours in names.items()
    }


def _network_of(dims: Dims) -> Network:
    return next(network for network in NETWORKS if network.dims is type(dims))


def save_weights(
    model: nn.Module,
    path: str | Path,
    names: Literal["released", "ours"] = "released",
    dtype: torch.dtype | None = None,
    about: Mapping[str, str] | None = None,
) -> Path:
    """Write a network as one safetensors file with its dimensions in the metadata; the file appears whole or not at all.

    ``dtype`` None: weights as the model has them. ``about``: goes into the metadata too.

    Released CLIP's ``visual.head`` and text half are not part of the network and so not written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise UsageError(f"{path}: got the ending '{path.suffix}', expected .safetensors")
    dims = dims_of(model)
    tied = _tied_names(model)
    state = released_state(model) if names == "released" else model.state_dict()
    state = {
        name: tensor.detach().to(dtype or tensor.dtype).contiguous()
        for name, tensor in state.items()
        if name not in tied
    }
    own = {"format": "pt", "network": _network_of(dims).kind, "names": names, "dims": json.dumps(dims.to_json())}
    metadata = {**(about or {}), **own}
    write_weights(path, state, metadata, "choose another folder")
    return path
