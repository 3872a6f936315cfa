"""Takes LoRA files of the common formats, gives a transformer with them merged in; what doesn't match is an error."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from avatarctl.errors import WeightsError
from avatarctl.networks.names import transformer_names
from avatarctl.networks.transformer import StableAvatarTransformer3DModel
from avatarctl.networks.weight_files import open_weights

# What trainers put before the name of a module: diffusers and peft, Comfy, the released trainer, Kohya and musubi.
PREFIXES = r"^(base_model\.model\.|transformer\.|diffusion_model\.|lora_transformer__|lora_unet__|lora_unet_)+"
# What they put behind it.
ENDINGS = r"\.(lora_down|lora_up|lora_A|lora_B)(\.default)?\.weight$|\.(alpha)$"


@dataclass
class LowRank:
    """One layer's change: ``up @ down * alpha / rank`` (alpha: the rank, where a file doesn't say)."""

    down: Tensor | None = None
    up: Tensor | None = None
    alpha: float | None = None


def read_lora(path: Path | Mapping[str, Tensor], transformer: StableAvatarTransformer3DModel) -> dict[str, LowRank]:
    """Read a LoRA file for this transformer: our module name -> its change.

    Names are matched without their dots, under our names and the released ones, so every flattened form fits. Raises
    ``WeightsError`` that lists what names no layer here, lacks its other half, or has another shape.
    """
    stored = open_weights(path)
    modules = {name: module for name, module in transformer.named_modules() if hasattr(module, "weight")}
    rename = transformer_names(transformer.dims)
    flat = {name.replace(".", "_"): name for name in modules}
    flat |= {rename(f"{name}.weight").removesuffix(".weight").replace(".", "_"): name for name in modules}
    changes: dict[str, LowRank] = {}
    unknown = []
    for key, tensor in stored.tensors.items():
        ending = re.search(ENDINGS, key)
        name = flat.get(re.sub(PREFIXES, "", key[: ending.start()]).replace(".", "_")) if ending else None
        if ending is None or name is None:
            unknown.append(key)
            continue
        change = changes.setdefault(name, LowRank())
        if ending[3]:
            change.alpha = float(tensor)
        elif ending[1] in ("lora_down", "lora_A"):
            change.down = tensor
        else:
            change.up = tensor
    wrong = [name for name, change in changes.items() if not _fits(change, modules[name].weight)]
    if unknown or wrong or not changes:
        found = "; ".join(
            f"{what}: {', '.join(names[:8])}{f' … and {len(names) - 8} more' if len(names) > 8 else ''}"
            for what, names in (("no such layer", unknown), ("another shape or half missing", wrong))
            if names
        )
        raise WeightsError(
            f"{stored.source}: got a LoRA that doesn't fit this transformer ({found or 'no layers'})",
            "use a LoRA made for StableAvatar or Wan2.1 of the same size",
        )
    return changes


def _fits(change: LowRank, weight: Tensor) -> bool:
    if change.down is None or change.up is None:
        return False
    down, up = change.down.flatten(1), change.up.flatten(1)
    return (up.shape[0], down.shape[1]) == tuple(weight.flatten(1).shape) and up.shape[1] == down.shape[0]


@torch.no_grad()
def merge_lora(
    transformer: StableAvatarTransformer3DModel, path: Path | Mapping[str, Tensor], scale: float = 1.0
) -> int:
    """Add a LoRA to the transformer's weights, ``scale`` times; give the number of layers changed. Merge before placing."""
    changes = read_lora(path, transformer)
    modules = dict(transformer.named_modules())
    for name, change in changes.items():
        assert change.down is not None and change.up is not None
        weight = modules[name].weight
        down, up = change.down.flatten(1).float(), change.up.flatten(1).float()
        strength = scale * (down.shape[0] if change.alpha is None else change.alpha) / down.shape[0]
        delta = (up @ down * strength).reshape(weight.shape).to(weight.device)
        weight.copy_((weight.float() + delta).to(weight.dtype))
    return len(changes)
