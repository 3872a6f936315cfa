"""Merge LoRA files into a transformer, and describe them."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avatarctl import durable
from avatarctl.errors import UsageError, WeightsError, some
from avatarctl.networks import checkpoints, weight_dims
from avatarctl.networks.attach import GROUPS, group_of
from avatarctl.networks.dims import TRANSFORMER_1_3B, TRANSFORMER_14B
from avatarctl.networks.header import DIVERGED, LORA_HINT, not_finite_text
from avatarctl.networks.lora_formats import Lora, parse_lora
from avatarctl.networks.lora_kinds import Change, Decomposed, LowRank
from avatarctl.networks.names import is_audio
from avatarctl.networks.transformer import StableAvatarTransformer3DModel
from avatarctl.networks.weight_files import open_weights

SAVED = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


# -- Merging --------------------------------------------------------------------------------------------------------


def read_lora(path: Path | Mapping[str, Tensor], transformer: StableAvatarTransformer3DModel) -> Lora:
    """Read a LoRA file for this transformer.

    Raises ``WeightsError`` that lists what names no layer here, lacks its other half, has another shape, or isn't finite.
    """
    lora = parse_lora(path, transformer)
    if lora.not_finite:
        raise WeightsError(not_finite_text(lora.source, lora.not_finite), DIVERGED)
    weights = dict(transformer.named_parameters())
    wrong = [
        f"{name} {change.shape()} for {tuple(weights[f'{name}.weight'].shape)}"
        for name, change in lora.layers.items()
        if change.shape() != tuple(weights[f"{name}.weight"].flatten(1).shape)
    ]
    wrong += [
        f"{name} {tuple(difference.shape)} for {tuple(weights[name].shape)}"
        for name, difference in lora.full.items()
        if difference.shape != weights[name].shape
    ]
    if lora.unknown or lora.halves or wrong or not (lora.layers or lora.full):
        found = "; ".join(
            f"{what}: {some(names)}"
            for what, names in (
                ("no such layer, or named twice", lora.unknown),
                ("another shape or half missing", lora.halves + wrong),
            )
            if names
        )
        raise WeightsError(
            f"{lora.source}: got a LoRA that doesn't fit this transformer ({found or 'no layers'})",
            _way_out(lora, bool(wrong), transformer),
        )
    return lora


def _way_out(lora: Lora, other_shapes: bool, transformer: StableAvatarTransformer3DModel) -> str:
    """Say what helps with a LoRA that doesn't fit, by what is wrong with it."""
    if not lora.layers and not lora.full and not lora.halves:
        return "it is for another network: use a LoRA made for StableAvatar or Wan2.1"
    if other_shapes:
        ours = _named_size(transformer.dims.dim, transformer.dims.layers)
        return f"it was made for {_made_for(lora)}: use a LoRA of the size of this transformer, {ours}"
    if lora.halves:
        return LORA_HINT
    more = f"avatarctl lora info {shlex.quote(lora.source)}"
    return f"see what it holds with `{more}`; what has no place in this transformer has to be left out by its trainer"


def check_lora_fits(path: Path, base: Path) -> None:
    """Raise what merging a LoRA file into the transformer in ``base`` would raise; loads neither."""
    read_lora(path, StableAvatarTransformer3DModel.without_memory(weight_dims.transformer_dims(base)))


def merge_lora(
    transformer: StableAvatarTransformer3DModel, path: Path | Mapping[str, Tensor], scale: float = 1.0
) -> int:
    """Add a LoRA to the transformer's weights, ``scale`` times; return the number of layers changed. Merge before placing."""
    return merge_loras(transformer, [(path, scale)])


class Merger:
    """Several LoRAs, each with its strength: changes weights one by one and remembers which. Sums are made in float32."""

    def __init__(
        self,
        transformer: StableAvatarTransformer3DModel,
        loras: Sequence[tuple[Path | Mapping[str, Tensor], float]],
    ) -> None:
        self._read = [
            (read_lora(path, transformer), scale) for path, scale in loras
        ]  # all are checked before one is merged
        self.changed: set[str] = set()

    @property
    def whole(self) -> set[str]:
        """The parameters that a LoRA changes by a whole difference."""
        return {name for lora, _ in self._read for name in lora.full}

    def __call__(self, name: str, weight: Tensor) -> Tensor:
        """Return a weight with what the LoRAs add to it, unrounded in float32; itself where they add nothing."""
        module = name.removesuffix(".weight")
        changes = [
            scale * change.change(weight)
            for lora, scale in self._read
            if module != name and (change := lora.layers.get(module))
        ]
        changes += [scale * lora.full[name].float() for lora, scale in self._read if name in lora.full]
        if not changes:
            return weight
        self.changed.add(name)
        total = sum(change.reshape(weight.shape) for change in changes)
        assert isinstance(total, Tensor)
        return weight.float() + total.to(weight.device)

    def check(self, transformer: StableAvatarTransformer3DModel) -> int:
        """Return the number of layers changed; raises ``WeightsError`` for weights that aren't finite in their format."""
        weights = {name: weight for name, weight in transformer.named_parameters() if name in self.changed}
        if overflown := [name for name, weight in weights.items() if not torch.isfinite(weight).all()]:
            added = " and ".join(f"{lora.source} ({scale:g} times)" for lora, scale in self._read)
            kind = str(weights[overflown[0]].dtype).removeprefix("torch.")
            raise WeightsError(
                f"{added}: {len(overflown)} weights became NaN or infinite in {kind} ({some(overflown)}), expected finite ones",
                "use less of it (FILE:0.5), or a number format of more range (--dtype bfloat16); or the base weights are damaged",
            )
        return len({name.removesuffix(".bias").removesuffix(".weight") for name in weights})


@torch.no_grad()
def merge_loras(
    transformer: StableAvatarTransformer3DModel, loras: Sequence[tuple[Path | Mapping[str, Tensor], float]]
) -> int:
    """Add several LoRAs, each so many times; each weight is rounded to its number format once. Return the layers changed."""
    merger = Merger(transformer, loras)
    for name, weight in transformer.named_parameters():
        merged = merger(name, weight)
        if merged is not weight:
            weight.copy_(merged)
    return merger.check(transformer)


@torch.no_grad()
def load_merged(
    base: Path, loras: Sequence[tuple[Path, float]], dtype: torch.dtype | None, device: str | torch.device = "cpu"
) -> tuple[StableAvatarTransformer3DModel, int]:
    """Load a transformer with LoRAs merged in, and return it with the number of layers changed.

    They are added to the weights as they are stored, and the sum is rounded to ``dtype`` once (None: to what is stored). A
    render with LoRAs and one with weights that they were merged into have the same bits.
    """
    names = StableAvatarTransformer3DModel.without_memory(weight_dims.transformer_dims(base))
    merger = Merger(names, loras)
    audio = {name for name, _ in names.named_parameters() if is_audio(name)}
    # LoRAs of a base without audio layers bring them whole, as differences from zero.
    absent = (lambda _, shape: torch.zeros(shape)) if audio <= merger.whole else None
    alter = merger if loras else None
    transformer = checkpoints.load_transformer(base, dtype=dtype, device=device, alter=alter, absent=absent)
    return transformer, merger.check(transformer)


def merge_into(base: Path, loras: Sequence[tuple[Path, float]], output: Path, dtype: str) -> int:
    """Write the transformer in ``base`` with LoRAs merged in, under released names; return the number of layers changed.

    ``dtype``: float32, bfloat16, float16, or "same" for that of the base. Sums are made in float32.
    """
    patch = open_weights(base).tensors.get("patch_embedding.weight")
    stored = torch.float32 if patch is None else patch.dtype  # loading says what a file without it is
    if dtype == "same" and stored not in SAVED.values():
        raise UsageError(
            f"{base}: got weights in {str(stored).removeprefix('torch.')}, expected float32, bfloat16 or float16",
            "say with --dtype how to write them",
        )
    transformer, layers = load_merged(base, loras, SAVED.get(dtype, stored))
    with durable.guarded(output, "make room and run the same command again", "choose another --output"):
        checkpoints.save_weights(transformer, output)
    return layers


# -- Looking --------------------------------------------------------------------------------------------------------


def describe_lora(path: Path) -> dict[str, Any]:
    """Return what a LoRA file is: form, ranks, alphas, layers by group, numbers, and the transformer that it was made for.

    Needs no weights beside it. Raises ``WeightsError`` for files that are no LoRA.
    """
    lora = parse_lora(path)
    if not lora.layers and not lora.full:
        unreadable = some(lora.unknown + lora.halves)
        raise WeightsError(
            f"{lora.source}: got no layer of a StableAvatar or Wan2.1 transformer ({unreadable})",
            "name a LoRA made for one of them",
        )
    groups = {
        group: {
            "low_rank": sum(group_of(name) == group for name in lora.layers),
            "whole": sum(group_of(name) == group for name in lora.full),
        }
        for group in GROUPS
    }
    tensors = [*(t for change in lora.layers.values() for t in change.tensors()), *lora.full.values()]
    low_rank = [change for change in map(_inner, lora.layers.values()) if isinstance(change, LowRank)]
    return {
        "path": str(path),
        "form": lora.form,
        "made_for": _made_for(lora),
        "kinds": _counted([*(change.kind for change in lora.layers.values()), *["whole"] * len(lora.full)]),
        "ranks": _counted(change.rank for change in low_rank),
        "alphas": _counted(change.alpha for change in low_rank),
        "layers": groups,
        "parameters": sum(tensor.numel() for tensor in tensors),
        "bytes": path.stat().st_size,
        "dtypes": _counted(str(tensor.dtype).removeprefix("torch.") for tensor in tensors),
        "unknown": lora.unknown + lora.halves,
        "not_finite": lora.not_finite,
        "metadata": lora.metadata,
    }


def _counted(values: Iterable[Any]) -> dict[str, int]:
    return {str(value): count for value, count in Counter(values).most_common()}


def _made_for(lora: Lora) -> str:
    """Say in words which transformer has the width and the blocks that a LoRA's layers tell."""
    family = "StableAvatar" if any(group_of(n) == "audio" for n in (*lora.layers, *lora.full)) else "Wan2.1"
    # All layers of a block read tokens of this width, but for the feed-forward's second, whose inputs are hidden.
    ends = {name: change.shape()[1] for name, change in lora.layers.items()}
    ends |= {name: whole.shape[-1] for name, whole in lora.full.items() if whole.ndim}
    widths = Counter(end for name, end in ends.items() if name.startswith("blocks.") and ".ffn." not in name)
    blocks = len({name.split(".")[1] for name in (*lora.layers, *lora.full) if name.startswith("blocks.")})
    if not widths:
        return f"{family}, of a size that its layers don't tell"
    size = _named_size(widths.most_common(1)[0][0], blocks)
    return f"{family}{',' if ' ' in size else ''} {size}"


def _named_size(width: int, blocks: int) -> str:
    released = (("1.3B", TRANSFORMER_1_3B), ("14B", TRANSFORMER_14B))
    return next((size for size, dims in released if dims.dim == width), f"width {width}, {blocks} blocks")


def _inner(change: Change) -> Change:
    return change.inner if isinstance(change, Decomposed) else change
