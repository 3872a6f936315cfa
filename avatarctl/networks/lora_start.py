"""Start training from a LoRA file: its factors go on training, what it changes in whole weights is added to them."""

from __future__ import annotations

import math
import shlex
from pathlib import Path

import torch
from torch import Tensor

from avatarctl.errors import UsageError, WeightsError, some
from avatarctl.networks.adapters import read_lora
from avatarctl.networks.attach import ADAPTER, group_of, lora_layers
from avatarctl.networks.lora_kinds import Change, LowRank
from avatarctl.networks.transformer import StableAvatarTransformer3DModel


@torch.no_grad()
def start_from(transformer: StableAvatarTransformer3DModel, path: Path) -> int:
    """Put a LoRA file into a transformer whose groups are attached; return the number of layers that it changes.

    What the transformer predicts is then what the base with the LoRA merged in predicts. Factors of a smaller rank than
    that of the run take its first places. Raises ``UsageError`` for a rank that doesn't fit, and for layers that this run
    trains in another way, ``WeightsError`` for files that aren't for this transformer.
    """
    attached = lora_layers(transformer)
    # Names as they were before peft wrapped the layers.
    lora = read_lora(path, StableAvatarTransformer3DModel.without_memory(transformer.dims))
    parameters = dict(transformer.named_parameters())
    frozen: list[str] = []
    for name, change in lora.layers.items():
        if name in attached:
            _continue(attached[name], name, change, path)
        elif (weight := parameters[f"{name}.weight"]).requires_grad:
            weight += change.change(weight).reshape(weight.shape).to(weight.device)
        else:
            frozen.append(name)
    for name, difference in lora.full.items():
        if name in parameters and parameters[name].requires_grad:
            parameters[name] += difference.to(parameters[name].device)
        else:
            frozen.append(name)
    if frozen:
        groups = sorted({group_of(name) for name in frozen})
        wanted = [
            f"{group}={'lora' if any(n in lora.layers for n in frozen if group_of(n) == group) else 'full'}"
            for group in groups
        ]
        raise UsageError(
            f"init_lora: {path}: changes {len(frozen)} layers that this run doesn't train so ({some(frozen)})",
            " ".join(f"--set {each}" for each in wanted),
        )
    return len(lora.layers) + len(lora.full)


def _continue(layer: torch.nn.Module, name: str, change: Change, path: Path) -> None:
    """Copy a file's factors into an attached layer, so that the change is the same under the run's alpha and rank."""
    again = (
        f"avatarctl lora merge {shlex.quote(str(path))} --output merged.safetensors, then --weights merged.safetensors"
    )
    if not isinstance(change, LowRank) or ADAPTER not in getattr(layer, "lora_A", {}):
        raise WeightsError(f"init_lora: {path}: got {change.kind} in {name}, expected plain LoRA", again)
    down: Tensor = layer.lora_A[ADAPTER].weight  # type: ignore[index, union-attr]
    up: Tensor = layer.lora_B[ADAPTER].weight  # type: ignore[index, union-attr]
    rank = change.rank
    if rank > len(down):
        raise UsageError(
            f"init_lora: {path}: got rank {rank} in {name}, and this run has rank {len(down)}",
            f"--rank {rank}; or {again}",
        )
    scale = change.alpha / rank / float(layer.scaling[ADAPTER])  # type: ignore[index]
    # Shared out between both factors: their gradients stay of one size.
    share = math.sqrt(abs(scale))
    down[:rank] = change.down.flatten(1).float() * share
    up[:, :rank] = change.up.flatten(1).float() * math.copysign(share, scale)
    up[:, rank:] = 0
