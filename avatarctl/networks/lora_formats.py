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
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import init_empty_weights
from torch import Tensor

from avatarctl import durable
from avatarctl.errors import UsageError, WeightsError, some
from avatarctl.networks.dims import TransformerDims
from avatarctl.networks.header import DIVERGED, LORA_HINT, not_finite_text
from avatarctl.networks.lora_kinds import PEFT_LENGTHS, Change, Decomposed, LowRank, put_together, stored_parts
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
    "lycoris_": "lycoris",
    "pipe.dit.": "diffsynth",
    "model.diffusion_model.": "comfy",
}
PREFIX = re.compile(f"^({'|'.join(map(re.escape, PREFIXES))})+")
# What they put behind it.
ENDING = re.compile(
    r"\.(?:(?P<down>lora_down|lora_A)|(?P<up>lora_up|lora_B)|(?P<lengths>dora_scale|lora_magnitude_vector)"
    r"|(?P<part>lokr_w[12](?:_[ab])?|hada_w[12]_[ab])|(?P<alpha>alpha)|(?P<diff>diff)|(?P<diff_b>diff_b)|(?P<diff_m>diff_m))"
    r"(?:\.default)?(?:\.weight)?$"
)
# Changes of kinds that aren't known here: adding them as if they were low-rank ones would be wrong.
OTHER_KINDS = {
    "OFT": re.compile(r"\.oft_|\.boft_"),
    "Tucker": re.compile(r"\.(lora_mid|hada_t[12]|lokr_t[12])\b"),
    "LoRA with bias": re.compile(r"\.(lora_up|lora_B)(\.default)?\.bias$"),
    "replaced weights": re.compile(r"\.(set_weight|reshape_weight)$"),
}


@dataclass
class Lora:
    """What a file holds: changes by module, whole ones by parameter, names that fit nothing, and those of broken numbers."""

    source: str
    form: str
    layers: dict[str, Change]
    full: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    halves: list[str] = field(default_factory=list)
    not_finite: list[str] = field(default_factory=list)


# -- Reading --------------------------------------------------------------------------------------------------------


def parse_lora(source: Path | Mapping[str, Tensor], transformer: StableAvatarTransformer3DModel | None = None) -> Lora:
    """Read a LoRA file of any of the forms, into our names; ``transformer`` None: names alone, of as many blocks as needed.

    Names are matched without their dots, under our names and the released ones, so every flattened form fits. Raises
    ``WeightsError`` for changes of kinds that aren't known here (OFT, Tucker …); what else doesn't fit, or isn't finite, is
    listed in the result.
    """
    stored = open_weights(source, "a LoRA", LORA_HINT)
    others = {
        kind: found
        for kind, pattern in OTHER_KINDS.items()
        if (found := [k for k in stored.tensors if pattern.search(k)])
    }
    if others:
        words = "; ".join(f"{kind}: {some(keys)}" for kind, keys in others.items())
        raise WeightsError(
            f"{stored.source}: got changes of another kind ({words}), expected LoRA, DoRA, LoHa or LoKr",
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
        if kind == "diff_m" and ending is not None:  # the change of a module's table
            stem = stems.get(PREFIX.sub("", key[: ending.start()]).replace(".", "_") + "_modulation")
        if ending is not None and not _is_finite(tensor):
            lora.not_finite.append(key)
        weight = f"{stem}.weight" if f"{stem}.weight" in parameters else stem
        if stem is None or weight is None or kind is None or ending is None:
            lora.unknown.append(key)
        elif kind in ("diff", "diff_b", "diff_m"):
            changed = f"{stem}.bias" if kind == "diff_b" else weight
            if changed not in parameters or changed in lora.full:  # or named twice, in two ways
                lora.unknown.append(key)
            else:
                lora.full[changed] = _shaped_as(parameters[changed], tensor) if kind == "diff_m" else tensor
        elif parameters[weight].ndim < 2 or weight == stem or (name := ending["part"] or kind) in parts.get(stem, {}):
            lora.unknown.append(key)
        else:
            parts.setdefault(stem, {})[name] = tensor
    alphas = _peft_alphas(source, stored.metadata, lora.form)
    for stem, pieces in parts.items():
        if alphas.decomposed and "lengths" not in pieces:
            raise WeightsError(
                f"{lora.source}: got DoRA in its configuration, but no magnitudes of {stem}, expected them beside the factors",
                "get the whole file again from the program that trained it",
            )
        change = _change_of(stem, pieces, alphas)
        if change is None:
            lora.halves.append(stem)
        else:
            lora.layers[stem] = change
    return lora


def _change_of(stem: str, pieces: dict[str, Tensor], alphas: _Alphas) -> Change | None:
    """Return the change that the pieces of a layer make; None where one is missing, or alpha isn't one number."""
    alpha = pieces.pop("alpha", None)
    if alpha is not None and alpha.numel() != 1:
        return None
    rank = next((tensor.shape[0] for name, tensor in pieces.items() if name in ("down", "hada_w1_b")), 0)
    value = alphas.alpha(stem, rank) if alpha is None else float(alpha)
    return put_together(pieces, value, alphas.rank_of(stem) if alpha is None else None)


def _is_finite(tensor: Tensor) -> bool:
    """Return whether all numbers are finite; formats of 8 bits are widened first, which torch needs."""
    return bool(torch.isfinite(tensor.float() if tensor.itemsize == 1 else tensor).all())


def _shaped_as(parameter: Tensor, tensor: Tensor) -> Tensor:
    """Return a tensor in the parameter's shape where they differ in axes of length one alone."""
    same = [n for n in tensor.shape if n > 1] == [n for n in parameter.shape if n > 1]
    return tensor.reshape(parameter.shape) if same else tensor


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
    rank: float | None = None
    ranks: tuple[tuple[re.Pattern[str], float], ...] = ()
    decomposed: bool = False  # DoRA

    def alpha(self, name: str, rank: int) -> float | None:
        """Return a layer's alpha, as a number that is divided by the rank."""
        found = next((alpha for pattern, alpha in self.patterns if pattern.match(name)), self.common)
        if found is None:
            return None
        return float(found) * (math.sqrt(rank) if self.by_root else 1)

    def rank_of(self, name: str) -> float | None:
        """Return the rank that a layer's alpha is divided by, where the configuration tells it."""
        return next((rank for pattern, rank in self.ranks if pattern.match(name)), self.rank)


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

    def patterns(name: str) -> tuple[tuple[re.Pattern[str], float], ...]:  # as peft matches them
        return tuple((re.compile(rf"(.*\.)?({key})$"), value) for key, value in (config.get(name) or {}).items())

    return _Alphas(
        config.get("lora_alpha", config.get("alpha")),  # peft calls it alpha for LoHa and LoKr
        patterns("alpha_pattern"),
        bool(config.get("use_rslora")),
        config.get("r"),
        patterns("rank_pattern"),
        bool(config.get("use_dora")),
    )


# -- Writing --------------------------------------------------------------------------------------------------------


def write_lora(
    path: Path,
    changes: Mapping[str, Change],
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
    changes: Mapping[str, Change],
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
        lengths = PEFT_LENGTHS if naming.alpha_in_metadata else "dora_scale"
        parts = stored_parts(change, naming.down, naming.up, lengths)
        tensors |= {f"{key}.{part}": tensor for part, tensor in parts.items()}
        if (plain := _low_rank(change)) is not None and not naming.alpha_in_metadata:
            tensors[f"{key}.alpha"] = torch.tensor(plain.alpha)
    for parameter, difference in full.items():
        tensors[f"{written(parameter)}.{'diff_b' if parameter.endswith('.bias') else 'diff'}"] = difference
    about = {name: text for name, text in metadata.items() if name != PEFT_METADATA}
    low_rank = {name: plain for name, change in changes.items() if (plain := _low_rank(change)) is not None}
    if naming.alpha_in_metadata and low_rank:
        decomposed = any(isinstance(change, Decomposed) for change in changes.values())
        about[PEFT_METADATA] = json.dumps(_peft_config(low_rank, decomposed))
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_weights(path, tensors, {"format": "pt", **about}, "choose another --output")
    return path


def _low_rank(change: Change) -> LowRank | None:
    """Return the factors of a LoRA or DoRA."""
    inner = change.inner if isinstance(change, Decomposed) else change
    return inner if isinstance(inner, LowRank) else None


def _peft_config(changes: Mapping[str, LowRank], decomposed: bool) -> dict[str, Any]:
    """Return the part of peft's configuration that ranks and alphas need, as diffusers writes it."""
    (rank, alpha), _ = Counter((change.rank, change.alpha) for change in changes.values()).most_common(1)[0]
    # Anchored: peft would apply a block's pattern to the adapter's block of the same number too.
    config: dict[str, Any] = {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {f"^{name}": change.rank for name, change in changes.items() if change.rank != rank},
        "alpha_pattern": {f"^{name}": change.alpha for name, change in changes.items() if change.alpha != alpha},
        "target_modules": sorted(changes),
    }
    if decomposed:
        config["use_dora"] = True
    return {f"transformer.{key}": value for key, value in config.items()}


def convert_lora(source: Path, form: Form, output: Path) -> tuple[str, int, int]:
    """Write a LoRA file under the names of another form; return the form it had, its low-rank changes and its whole ones.

    Factors, alphas and whole changes stay as they are. Raises ``WeightsError`` that lists what names no layer.
    """
    names = without_weights(open_weights(source, "a LoRA", LORA_HINT).tensors)
    lora = parse_lora(source, names)
    if lora.not_finite:
        raise WeightsError(not_finite_text(lora.source, lora.not_finite), DIVERGED)
    plain = {name: change for name, change in lora.layers.items() if isinstance(change, LowRank)}
    if others := {change.kind for name, change in lora.layers.items() if name not in plain}:
        raise WeightsError(
            f"{lora.source}: got {' and '.join(sorted(others))}, expected plain LoRA: the other forms can't hold it",
            f"use it as it is, or merge it: avatarctl lora merge {shlex.quote(str(source))} --output merged.safetensors",
        )
    if (strange := lora.unknown + lora.halves) or not (lora.layers or lora.full):
        raise WeightsError(
            f"{lora.source}: got a LoRA with layers that StableAvatar and Wan2.1 don't have, or halves of layers "
            f"({some(strange)})",
            "look at it with `avatarctl lora info`",
        )
    save_lora(output, plain, lora.full, form, names, lora.metadata)
    return lora.form, len(lora.layers), len(lora.full)
