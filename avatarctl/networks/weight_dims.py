"""Look into a file of weights without reading them: which names it has, of what network and which sizes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import Tensor, nn

from avatarctl.errors import WeightsError, some
from avatarctl.networks import dims as sizes
from avatarctl.networks import names as naming
from avatarctl.networks.dims import Dims, SpeechDims, TransformerDims
from avatarctl.networks.kinds import SPEECH_ENCODER, TRANSFORMER, VAE, Network, dims_of, looks_like
from avatarctl.networks.transformer import StableAvatarTransformer3DModel
from avatarctl.networks.weight_files import Stored, open_weights

Source = str | Path | Mapping[str, Tensor]
Model = TypeVar("Model", bound=nn.Module)


def transformer_dims(source: Source) -> TransformerDims:
    """Return the sizes of a stored transformer, without reading its weights; raises ``WeightsError`` as loading does."""
    _, _, dims = look_into(TRANSFORMER, source, None)
    assert isinstance(dims, TransformerDims)
    return dims


def has_audio(source: Source) -> bool:
    """Return whether a stored transformer has audio layers: Wan2.1's has none; raises ``WeightsError`` as opening does."""
    _, tensors, dims = look_into(TRANSFORMER, source, None)
    rename = naming.transformer_names(dims)
    ours = "blocks.0.attn2.to_k_vocal.weight"
    return any(name.startswith("vocal_projector.") or name in (ours, rename(ours)) for name in tensors)


def stored_transformer(source: Source) -> tuple[torch.dtype, int]:
    """Return the number format that a transformer is stored in, and how many weights it has, without reading them."""
    stored, tensors, _ = look_into(TRANSFORMER, source, None)
    found = [stored.tensors[name] for name in tensors.values()]
    return max(found, key=lambda tensor: tensor.numel()).dtype, sum(tensor.numel() for tensor in found)


def look_into(
    network: Network, source: Source, dims: Dims | Mapping[str, Any] | None
) -> tuple[Stored, dict[str, str], Dims]:
    """Open a source: what is stored, usable name -> stored name, and the sizes."""
    stored = open_weights(source)
    tensors = _rename_stored(network, stored)
    try:
        found = network.dims.parse(dims) if dims is not None else _find_dims(network, stored, tensors)
    except KeyError as error:
        raise foreign(network, stored, tensors, [str(error.args[0])]) from error
    return stored, tensors, _with_layout(found, stored, tensors)


def _with_layout(dims: Dims, stored: Stored, tensors: Mapping[str, str]) -> Dims:
    """Tell the adapter's 14B layout by its second projection, where dims recorded elsewhere don't name it."""
    second = "vocal_projector.proj_model.proj_1.weight"
    if isinstance(dims, TransformerDims) and dims.vocal_hidden is None and second in tensors:
        return dims.with_(vocal_hidden=stored.tensors[tensors[second]].shape[0])
    return dims


def _rename_stored(network: Network, stored: Stored) -> dict[str, str]:
    """Return usable name -> stored name: other programs' prefixes and newer weight-norm names made equal."""
    rename = naming.wav2vec_names(sizes.WAV2VEC2_BASE) if network is SPEECH_ENCODER else str
    names = {rename(name.removeprefix(network.prefix)): name for name in stored.tensors}
    return {name: origin for name, origin in names.items() if not re.match(network.unused, name)}


def _find_dims(network: Network, stored: Stored, tensors: Mapping[str, str]) -> Dims:
    if "dims" in stored.metadata:
        if stored.metadata.get("network", network.kind) != network.kind:
            raise WeightsError(f"{stored.source}: got a {stored.metadata['network']}, expected a {network.kind}")
        return network.dims.parse(json.loads(stored.metadata["dims"]))
    if stored.config is not None and (found := _dims_of_config(network, stored.config)):
        return found
    return network.infer({name: tuple(stored.tensors[origin].shape) for name, origin in tensors.items()})


def _dims_of_config(network: Network, config: Mapping[str, Any]) -> Dims | None:
    """Read sizes from the config.json that diffusers and transformers write beside weights."""
    if network is SPEECH_ENCODER:
        names = SpeechDims.__dataclass_fields__
        return SpeechDims.parse({name: config[name] for name in names if name in config})
    if network is TRANSFORMER and config.get("_class_name") == StableAvatarTransformer3DModel.__name__:
        with init_empty_weights(include_buffers=False):
            return StableAvatarTransformer3DModel.from_config(dict(config)).dims
    if network is TRANSFORMER and config.get("_class_name") == WanTransformer3DModel.__name__:
        return _dims_of_wan(config)
    if network is VAE and config.get("_class_name") == AutoencoderKLWan.__name__:
        return dims_of(_build_empty(AutoencoderKLWan.from_config, dict(config)))
    return None


def _dims_of_wan(config: Mapping[str, Any]) -> TransformerDims:
    """Return the sizes of a Wan2.1 transformer of diffusers, with the audio layers that its width would have."""
    dim = config["num_attention_heads"] * config["attention_head_dim"]
    return TransformerDims(
        dim=dim,
        heads=config["num_attention_heads"],
        layers=config["num_layers"],
        ffn=config["ffn_dim"],
        text=config["text_dim"],
        text_len=512,
        clip=config["image_dim"] or sizes.CLIP_VIT_H14.dim,
        w2v=sizes.WAV2VEC2_BASE.hidden_size,
        freq_dim=config["freq_dim"],
        in_dim=config["in_channels"],
        out_dim=config["out_channels"],
        patch=tuple(config["patch_size"]),
        vocal_hidden=sizes.TRANSFORMER_14B.vocal_hidden if dim == sizes.TRANSFORMER_14B.dim else None,
    )


def _build_empty(build: Callable[[Any], Model], argument: Any) -> Model:
    with init_empty_weights(include_buffers=False):
        return build(argument)


def foreign(
    network: Network,
    stored: Stored,
    tensors: Mapping[str, str],
    missing: list[str],
    left_over: list[str] | None = None,
) -> WeightsError:
    """Return the error of a file that isn't the network's: what it looks like, and which names are missing or left over."""
    parts = [f"{stored.source}: expected a {network.kind}, but these are {looks_like(tensors)}"]
    if missing:
        parts.append(f"missing {len(missing)}: {some(missing, 12)}")
    if left_over:
        parts.append(f"left over {len(left_over)}: {some(left_over, 12)}")
    hint = "run `avatarctl fetch` for the released weights, or name the right file"
    if parts[0].endswith(naming.NO_ADAPTER):
        hint = "train its audio layers (avatarctl train --weights PATH), or get weights that have them: avatarctl fetch"
    return WeightsError("; ".join(parts), hint)
