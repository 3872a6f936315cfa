"""Set groups of a transformer's weights to train or not, attach a LoRA to them, and tell what training changed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from avatarctl.errors import UsageError, WeightsError, some
from avatarctl.networks.lora_kinds import Change, Decomposed, Hadamard, Kronecker, LowRank
from avatarctl.networks.names import is_audio
from avatarctl.networks.transformer import StableAvatarTransformer3DModel

if TYPE_CHECKING:
    from peft.tuners.tuners_utils import BaseTunerLayer

Mode = Literal["full", "lora", "frozen"]
Kind = Literal["lora", "dora", "lokr", "loha"]
GROUPS = ("attention", "feed_forward", "audio", "norms", "embeddings")
ADAPTER = "default"  # peft's name for the only one there is


def group_of(name: str) -> str:
    """Return the group of a parameter or module, by our name.

    attention: self-attention, and cross-attention to text and image; feed_forward; audio: audio keys and values of the
    blocks and the whole adapter; norms: norms and modulation tables of the blocks; embeddings: what comes before and after
    the blocks.
    """
    pieces = name.split(".")
    if is_audio(name):
        return "audio"
    if pieces[0] != "blocks":
        return "embeddings"
    if "scale_shift_table" in pieces or any(piece.startswith("norm") for piece in pieces):
        return "norms"
    return "feed_forward" if "ffn" in pieces else "attention"


def groups_of(transformer: StableAvatarTransformer3DModel) -> dict[str, list[str]]:
    """Return group -> names of its parameters; each parameter is in exactly one."""
    groups: dict[str, list[str]] = {group: [] for group in GROUPS}
    for name, _ in transformer.named_parameters():
        groups[group_of(name)].append(name)
    return groups


def attach(
    transformer: StableAvatarTransformer3DModel,
    groups: Mapping[str, Mode],
    rank: int,
    alpha: float,
    dropout: float,
    kind: Kind = "lora",
    rslora: bool = False,
) -> dict[str, nn.Parameter]:
    """Set what of a transformer trains: groups in ``full``, by a ``lora`` on their linear layers, or not at all.

    Groups that aren't named are frozen. LoRA factors are float32, the down-weights drawn from torch's global generator, the
    up-weights zero, so that the output is still the base's, exactly. Gives the parameters that train, by name. Raises
    ``UsageError`` for an unknown group, or for LoRA on one without linear layers. ``rslora``: a change counts alpha over the
    root of the rank. Sources: Hu et al. 2021, section 4.1; Kalajdzievski 2023; ``lora_kinds`` for the other kinds.
    """
    if unknown := sorted(set(groups) - set(GROUPS)):
        raise UsageError(f"groups: got {', '.join(unknown)}, expected some of {', '.join(GROUPS)}")
    linear: dict[str, list[str]] = {group: [] for group in GROUPS}
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear):
            linear[group_of(name)].append(name)
    for group, mode in groups.items():
        if mode == "lora" and not linear[group]:
            raise UsageError(f"{group}: got lora, but it has no linear layers, expected full or frozen")

    for name, parameter in transformer.named_parameters():
        parameter.requires_grad_(groups.get(group_of(name), "frozen") == "full")
    targets = [name for group, mode in groups.items() if mode == "lora" for name in linear[group]]
    if targets:
        # One pattern of whole names: in a list, blocks.0.attn2.to_q would mean the adapter's layer of that name too.
        pattern = "|".join(map(re.escape, targets))
        config = _config(kind, f"(?:{pattern})", rank, alpha, dropout, rslora)
        full = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
        transformer.add_adapter(config, ADAPTER)
        for parameter in full:  # peft freezes all that isn't its own
            parameter.requires_grad_(True)
        for _, parameter in adapter_parameters(transformer):
            if parameter.dtype != torch.float32:
                parameter.data = parameter.data.float()
    return {name: parameter for name, parameter in transformer.named_parameters() if parameter.requires_grad}


def _config(kind: Kind, targets: str, rank: int, alpha: float, dropout: float, rslora: bool) -> Any:
    """Return peft's configuration of a kind; ``dropout`` leaves out inputs, or for LoKr and LoHa parts of the change."""
    import peft  # by what trains alone: it imports a second's worth

    if kind in ("lora", "dora"):
        return peft.LoraConfig(
            r=rank,
            lora_alpha=alpha,
            lora_dropout=dropout,
            target_modules=targets,
            use_dora=kind == "dora",
            use_rslora=rslora,
        )
    made = peft.LoKrConfig if kind == "lokr" else peft.LoHaConfig
    return made(r=rank, alpha=alpha, rank_dropout=dropout, target_modules=targets)


def trained_state(transformer: StableAvatarTransformer3DModel) -> dict[str, Tensor]:
    """Return what trains (LoRA factors, weights trained in full) by name, on the CPU; there, they share the live memory."""
    return {name: p.detach().cpu() for name, p in transformer.named_parameters() if p.requires_grad}


@torch.no_grad()
def load_trained(transformer: StableAvatarTransformer3DModel, state: Mapping[str, Tensor]) -> None:
    """Put back what :func:`trained_state` gave, into a transformer with the same groups attached.

    Raises ``WeightsError`` with the names that are missing, left over or of another shape, before anything is changed.
    """
    trained = {name: p for name, p in transformer.named_parameters() if p.requires_grad}
    wrong = {
        "missing": sorted(set(trained) - set(state)),
        "left over": sorted(set(state) - set(trained)),
        "another shape": sorted(n for n in set(state) & set(trained) if state[n].shape != trained[n].shape),
    }
    if any(wrong.values()):
        found = "; ".join(f"{what}: {some(names)}" for what, names in wrong.items() if names)
        raise WeightsError(
            f"trained weights: got others than this transformer trains ({found})",
            "resume with the groups and the rank that the run began with",
        )
    for name, parameter in trained.items():
        parameter.copy_(state[name])


def changes_of(
    transformer: StableAvatarTransformer3DModel, base: Mapping[str, Tensor]
) -> tuple[dict[str, Change], dict[str, Tensor]]:
    """Return what training changed, as ``write_lora`` takes it: LoRA of any kind by module, and weight minus base by parameter.

    ``base``: the weights from before training by our names; only those of groups trained in full are looked at.
    """
    changes = {name: _change_of(layer) for name, layer in lora_layers(transformer).items()}
    factors = {id(parameter) for _, parameter in adapter_parameters(transformer)}
    full = {
        name: p.detach().cpu().float() - base[name].cpu().float()
        for name, p in transformer.named_parameters()
        if p.requires_grad and id(p) not in factors
    }
    return changes, full


def _change_of(layer: Any) -> Change:
    """Return what an attached layer adds to its weight."""

    def stored(name: str) -> Tensor | None:
        held = getattr(layer, name, {})  # of modules or of tensors
        if ADAPTER not in held:
            return None
        found = held[ADAPTER]
        return getattr(found, "weight", found).detach().cpu()

    def factors(name: str, scale: float = 1.0) -> tuple[Tensor, ...]:
        whole = stored(name)
        pair = (whole,) if whole is not None else (stored(f"{name}_a"), stored(f"{name}_b"))
        first, *rest = [matrix for matrix in pair if matrix is not None]
        return first * scale, *rest

    scale = float(layer.scaling[ADAPTER])
    if (down := stored("lora_A")) is not None:
        up = stored("lora_B")
        assert up is not None
        change = LowRank(down, up, scale * len(down))
        lengths = stored("lora_magnitude_vector")
        return change if lengths is None else Decomposed(change, lengths)
    # The scale goes into a factor: files of these kinds disagree about what alpha is divided by.
    if stored("hada_w1_a") is not None:
        first, second = factors("hada_w1", scale), factors("hada_w2")
        return Hadamard((first[0], first[1]), (second[0], second[1]), float(len(first[1])))
    return Kronecker(factors("lokr_w1", scale), factors("lokr_w2"), 1.0)


def lora_layers(transformer: StableAvatarTransformer3DModel) -> dict[str, BaseTunerLayer]:
    """Return the layers that a LoRA of any kind is attached to, by module."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {name: module for name, module in transformer.named_modules() if isinstance(module, BaseTunerLayer)}


def adapter_parameters(transformer: StableAvatarTransformer3DModel) -> list[tuple[str, nn.Parameter]]:
    """Return the weights of an attached LoRA, by name."""
    layers = tuple(f"{name}." for name in lora_layers(transformer))
    return [
        (name, parameter)
        for name, parameter in transformer.named_parameters()
        if name.startswith(layers) and ".base_layer." not in name
    ]
