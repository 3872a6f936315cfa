"""Read LoRA files under the names of several trainers as changes under our names, and write them back.

Two kinds of changes: low rank (two factors and alpha), and whole (a weight minus the base's, for layers that were trained in
full). Whole changes stand in every form as Comfy and Kohya know them: ``LAYER.diff`` for a weight, ``LAYER.diff_b`` for a
bias; a scale multiplies them as it does the others. Of other programs Comfy applies them; the pipelines of diffusers refuse
a file that has them, its models pass them over.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import init_empty_weights
from torch import Tensor

from avatarctl import durable
from avatarctl.errors import UsageError, WeightsError
from avatarctl.networks.dims import TransformerDims
from avatarctl.networks.names import transformer_names
from avatarctl.networks.transformer import StableAvatarTransformer3DModel
from avatarctl.networks.weight_files import open_weights, write_weights

Form = Literal["diffusers", "released", "kohya", "comfy"]
# What diffusers keeps beside the factors: the peft configuration, every key behind the name of the network.
PEFT_METADATA = "lora_adapter_metadata"
PEFT_CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class Naming:
    """How a form writes names: prefix, released names or ours, dots or underscores, the factors, where alpha stands."""

    prefix: str
    released: bool
    flat: bool
    down: str
    up: str
    alpha_in_metadata: bool = False


FORMS: dict[Form, Naming] = {
    # diffusers >= 0.34; its loader refuses files with keys for alpha.
    "diffusers": Naming("transformer.", False, False, "lora_A", "lora_B", alpha_in_metadata=True),
    # The released trainer of StableAvatar.
    "released": Naming("lora_transformer__", True, True, "lora_down", "lora_up"),
    # Kohya's trainers, musubi-tuner among them.
    "kohya": Naming("lora_unet_", True, True, "lora_down", "lora_up"),
    # ComfyUI's own name for the network.
    "comfy": Naming("diffusion_model.", True, False, "lora_A", "lora_B"),
}
# What trainers put before the name of a module, in this order; the bare name is the last resort.
PREFIXES = {
    "base_model.model.": "peft",
    "transformer.": "diffusers",
    "diffusion_model.": "comfy",
    "lora_transformer__": "released",
    "lora_unet__": "kohya",
    "lora_unet_": "kohya",
}
PREFIX = re.compile(f"^({'|'.join(map(re.escape, PREFIXES))})+")
# What they put behind it.
ENDING = re.compile(
    r"\.(?:(?P<down>lora_down|lora_A)(?:\.default)?\.weight|(?P<up>lora_up|lora_B)(?:\.default)?\.weight"
    r"|(?P<alpha>alpha)|(?P<diff>diff)|(?P<diff_b>diff_b))$"
)
# Changes of other kinds: adding them as if they were low-rank ones would be wrong.
OTHER_KINDS = {
    "DoRA": re.compile(r"dora_scale|lora_magnitude_vector"),
    "LoHa": re.compile(r"\.hada_"),
    "LoKr": re.compile(r"\.lokr_"),
    "OFT": re.compile(r"\.oft_|\.boft_"),
    "Tucker": re.compile(r"\.lora_mid\b"),
    "LoRA with bias": re.compile(r"\.(lora_up|lora_B)(\.default)?\.bias$"),
    "replaced weights": re.compile(r"\.(set_weight|reshape_weight)$"),
}


@dataclass(frozen=True)
class LowRank:
    """One layer's change: ``up @ down * alpha / rank``."""

    down: Tensor  # (rank, inputs), convolutions with their further axes
    up: Tensor  # (outputs, rank)
    alpha: float

    @property
    def rank(self) -> int:
        """Width between the factors."""
        return self.down.shape[0]

    def change(self) -> Tensor:
        """Return the change of the flattened weight (outputs, inputs), in float32."""
        return self.up.flatten(1).float() @ self.down.flatten(1).float() * (self.alpha / self.rank)


@dataclass
class Lora:
    """What a file holds: low-rank changes by module, whole ones by parameter, and names that fit nothing."""

    source: str
    form: str
    layers: dict[str, LowRank]
    full: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    halves: list[str] = field(default_factory=list)


# -- Reading --------------------------------------------------------------------------------------------------------


def parse_lora(source: Path | Mapping[str, Tensor], transformer: StableAvatarTransformer3DModel | None = None) -> Lora:
    """Read a LoRA file of any of the forms, into our names; ``transformer`` None: names alone, of as many blocks as needed.

    Names are matched without their dots, under our names and the released ones, so every flattened form fits. Raises
    ``WeightsError`` for changes of other kinds (DoRA, LoHa …); what else doesn't fit is listed in the result.
    """
    stored = open_weights(source)
    others = {
        kind: found
        for kind, pattern in OTHER_KINDS.items()
        if (found := [k for k in stored.tensors if pattern.search(k)])
    }
    if others:
        words = "; ".join(f"{kind}: {some(keys)}" for kind, keys in others.items())
        raise WeightsError(
            f"{stored.source}: got changes of another kind ({words}), expected plain LoRA factors",
            "merge it into weights with the program that made it, or extract a plain LoRA there",
        )
    if transformer is None:
        transformer = without_weights(stored.tensors)
    parameters = dict(transformer.named_parameters())
    stems = _stems(transformer)
    parts: dict[str, dict[str, Tensor]] = {}
    lora = Lora(stored.source, _form(stored.tensors), {}, {}, dict(stored.metadata))
    for key, tensor in stored.tensors.items():
        ending = ENDING.search(key)
        stem = stems.get(PREFIX.sub("", key[: ending.start()]).replace(".", "_")) if ending else None
        kind = ending.lastgroup if ending else None
        weight = f"{stem}.weight" if f"{stem}.weight" in parameters else stem
        if stem is None or weight is None or kind is None:
            lora.unknown.append(key)
        elif kind in ("diff", "diff_b"):
            changed = weight if kind == "diff" else f"{stem}.bias"
            if changed not in parameters or changed in lora.full:  # or named twice, in two ways
                lora.unknown.append(key)
            else:
                lora.full[changed] = tensor
        elif parameters[weight].ndim < 2 or weight == stem or kind in parts.get(stem, {}):
            lora.unknown.append(key)
        else:
            parts.setdefault(stem, {})[kind] = tensor
    alphas = _peft_alphas(source, stored.metadata, lora.form)
    for stem, pieces in parts.items():
        if not _whole(pieces):
            lora.halves.append(stem)
            continue
        rank = pieces["down"].shape[0]
        alpha = float(pieces["alpha"]) if "alpha" in pieces else alphas.alpha(stem, rank)
        lora.layers[stem] = LowRank(pieces["down"], pieces["up"], alpha)
    return lora


def _whole(pieces: Mapping[str, Tensor]) -> bool:
    """Return whether both factors are there, fit each other, and alpha, if there is one, is one number."""
    if "down" not in pieces or "up" not in pieces:
        return False
    down, up = pieces["down"], pieces["up"]
    if down.ndim < 2 or up.ndim < 2 or not len(down) or ("alpha" in pieces and pieces["alpha"].numel() != 1):
        return False
    return up.flatten(1).shape[1] == len(down)


def _stems(transformer: StableAvatarTransformer3DModel) -> dict[str, str]:
    """Return flattened name -> our name, of modules with weights and of tables, under our names and the released ones."""
    rename = transformer_names(transformer.dims)
    stems: dict[str, str] = {}
    for name, _ in transformer.named_parameters():
        if not name.endswith(".bias"):
            for written in (name, rename(name)):
                stems[written.removesuffix(".weight").replace(".", "_")] = name.removesuffix(".weight")
    return stems


def without_weights(keys: Mapping[str, Any]) -> StableAvatarTransformer3DModel:
    """Return a transformer without weights that has the layers which the keys name; its widths mean nothing."""
    blocks = [int(match[1]) for key in keys if (match := re.search(r"(?<!projector[._])blocks[._](\d+)[._]", key))]
    hidden = any(re.search(r"projector[._](proj_model[._])?(proj|norm)_(1|2|hidden)", key) for key in keys)
    dims = TransformerDims(
        dim=8, heads=1, layers=max(blocks, default=0) + 1, ffn=8, text=8, text_len=8, clip=8, w2v=8,
        vocal_heads=1, vocal_hidden=8 if hidden else None,
    )  # fmt: skip
    with init_empty_weights():
        return StableAvatarTransformer3DModel.from_dims(dims)


def _form(keys: Mapping[str, Any]) -> str:
    counts = Counter(
        next((form for prefix, form in PREFIXES.items() if key.startswith(prefix)), "bare") for key in keys
    )
    return counts.most_common(1)[0][0]


@dataclass(frozen=True)
class _Alphas:
    """Alpha as peft's configuration has it: one for all, others by pattern; none stands for the rank."""

    common: float | None = None
    patterns: tuple[tuple[re.Pattern[str], float], ...] = ()
    by_root: bool = False  # rank-stabilised: divided by the root of the rank

    def alpha(self, name: str, rank: int) -> float:
        """Return a layer's alpha, as a number that is divided by the rank."""
        found = next((alpha for pattern, alpha in self.patterns if pattern.match(name)), self.common)
        if found is None:
            return float(rank)
        return float(found) * (math.sqrt(rank) if self.by_root else 1)


def _peft_alphas(source: Path | Mapping[str, Tensor], metadata: Mapping[str, str], form: str) -> _Alphas:
    """Find the configuration that diffusers writes into the file, or peft beside it."""
    config: dict[str, Any] | None = None
    if PEFT_METADATA in metadata:
        try:
            content = dict(json.loads(metadata[PEFT_METADATA]))
        except (ValueError, TypeError) as error:
            raise WeightsError(f"LoRA: got broken {PEFT_METADATA} in its metadata ({error}), expected JSON") from error
        config = {key.removeprefix("transformer."): value for key, value in content.items()}
    elif form == "peft" and not isinstance(source, Mapping):
        beside = Path(source).with_name(PEFT_CONFIG)
        config = durable.read_json(beside)
        if config is None and beside.exists():
            raise WeightsError(f"{beside}: got broken JSON, expected peft's configuration, which holds alpha")
    if config is None:
        return _Alphas()
    if config.get("use_dora"):
        raise WeightsError("LoRA: got DoRA in its configuration, expected plain LoRA factors")
    patterns = (config.get("alpha_pattern") or {}).items()
    compiled = tuple((re.compile(rf"(.*\.)?({key})$"), alpha) for key, alpha in patterns)  # as peft matches them
    return _Alphas(config.get("lora_alpha"), compiled, bool(config.get("use_rslora")))


def some(names: list[str], most: int = 8) -> str:
    """Return the first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" … and {len(names) - most} more" if len(names) > most else "")


# -- Writing --------------------------------------------------------------------------------------------------------


def write_lora(
    path: Path,
    changes: Mapping[str, LowRank],
    full: Mapping[str, Tensor],
    form: Form,
    transformer: StableAvatarTransformer3DModel,
    metadata: Mapping[str, str],
) -> Path:
    """Write low-rank ``changes`` by module and whole ones (weight minus base) by parameter; the file is whole or absent.

    The transformer gives names and sizes; its weights aren't read. ``metadata`` goes into the file as it is, beside the
    sizes. Raises ``UsageError`` when there is nothing to write or the ending isn't .safetensors.
    """
    dims = json.dumps(transformer.dims.to_json())
    return save_lora(path, changes, full, form, transformer, {"network": "lora", "dims": dims, **metadata})


def save_lora(
    path: Path,
    changes: Mapping[str, LowRank],
    full: Mapping[str, Tensor],
    form: Form,
    names: StableAvatarTransformer3DModel,
    metadata: Mapping[str, str],
) -> Path:
    """Write a LoRA file with exactly this metadata, and what the form itself needs."""
    if path.suffix != ".safetensors":
        raise UsageError(f"{path}: got the ending '{path.suffix}', expected .safetensors")
    if not changes and not full:
        raise UsageError(f"{path}: got no changes, expected a LoRA with at least one layer")
    naming, rename = FORMS[form], transformer_names(names.dims)

    def written(parameter: str) -> str:
        stem = (rename(parameter) if naming.released else parameter).removesuffix(".weight").removesuffix(".bias")
        return naming.prefix + (stem.replace(".", "_") if naming.flat else stem)

    tensors: dict[str, Tensor] = {}
    for name, change in changes.items():
        key = written(f"{name}.weight")
        tensors[f"{key}.{naming.down}.weight"] = change.down
        tensors[f"{key}.{naming.up}.weight"] = change.up
        if not naming.alpha_in_metadata:
            tensors[f"{key}.alpha"] = torch.tensor(change.alpha)
    for parameter, difference in full.items():
        tensors[f"{written(parameter)}.{'diff_b' if parameter.endswith('.bias') else 'diff'}"] = difference
    about = {name: text for name, text in metadata.items() if name != PEFT_METADATA}
    if naming.alpha_in_metadata and changes:
        about[PEFT_METADATA] = json.dumps(_peft_config(changes))
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_weights(path, tensors, {"format": "pt", **about}, "choose another --output")
    return path


def _peft_config(changes: Mapping[str, LowRank]) -> dict[str, Any]:
    """Return the part of peft's configuration that ranks and alphas need, as diffusers writes it."""
    (rank, alpha), _ = Counter((change.rank, change.alpha) for change in changes.values()).most_common(1)[0]
    # Anchored: peft would apply a block's pattern to the adapter's block of the same number too.
    config = {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {f"^{name}": change.rank for name, change in changes.items() if change.rank != rank},
        "alpha_pattern": {f"^{name}": change.alpha for name, change in changes.items() if change.alpha != alpha},
        "target_modules": sorted(changes),
    }
    return {f"transformer.{key}": value for key, value in config.items()}


def convert_lora(source: Path, form: Form, output: Path) -> tuple[str, int, int]:
    """Write a LoRA file under the names of another form; return the form it had, its low-rank changes and its whole ones.

    Factors, alphas and whole changes stay as they are. Raises ``WeightsError`` that lists what names no layer.
    """
    names = without_weights(open_weights(source).tensors)
    lora = parse_lora(source, names)
    if (strange := lora.unknown + lora.halves) or not (lora.layers or lora.full):
        raise WeightsError(
            f"{lora.source}: got a LoRA with layers that StableAvatar and Wan2.1 don't have, or halves of layers "
            f"({some(strange)})",
            "look at it with `avatarctl lora info`",
        )
    save_lora(output, lora.layers, lora.full, form, names, lora.metadata)
    return lora.form, len(lora.layers), len(lora.full)
