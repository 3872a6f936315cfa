"""Save and restore an optimizer's state as named tensors and plain values, whichever library it is of."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

SMALL = 256  # numbers of a table that all parameters share, which a file can't hold twice
GROUPS = "param_groups"
# Quantised states of torchao are tensors made of tensors; classes are looked up in it alone.
PACKED, LIBRARY = "packed", "torchao."
TENSOR, DTYPE = "tensor", "dtype"
GIVEN = ("params", "lr", "adamw_lr", "share", "use_muon")  # of a group, what settings and schedule say


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, names: Mapping[nn.Parameter, str], whole: bool = True
) -> tuple[dict[str, Tensor], str]:
    """Return the state as tensors named ``STATE:PARAMETER``, and what isn't a tensor as JSON.

    ``whole``: on the CPU; else tensors stay spread over the processes as their parameters are. bitsandbytes nests its
    states one deeper: ``GROUP/STATE:PARAMETER``; states of torchao are ``STATE@PART:PARAMETER``.
    """
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    order = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, state in optimizer.state_dict()["state"].items():
        name = names[order[index]]
        flat = {key: value for key, value in state.items() if not isinstance(value, Mapping)}
        for group, inner in state.items():
            if isinstance(inner, Mapping):
                flat |= {f"{group}/{key}": value for key, value in inner.items()}
        for key, value in flat.items():
            if not isinstance(value, Tensor):
                plain[f"{key}:{name}"] = value
            elif not whole and type(value).__name__ == "DTensor":
                tensors[f"{key}:{name}"] = value.detach()
            elif type(value) is Tensor or type(value) is nn.Parameter:
                own = value.detach().cpu()
                tensors[f"{key}:{name}"] = own.clone() if own.numel() <= SMALL else own
            else:
                parts, about = value.__tensor_flatten__()  # type: ignore[attr-defined]
                kind = f"{type(value).__module__}:{type(value).__name__}"
                words = [
                    {DTYPE: str(each).removeprefix("torch.")} if isinstance(each, torch.dtype) else each
                    for each in about
                ]
                plain[f"{key}:{name}"] = {PACKED: kind, "about": words, "shape": list(value.shape)}
                tensors |= {f"{key}@{part}:{name}": getattr(value, part).detach().cpu().clone() for part in parts}
    return tensors, json.dumps(
        {**plain, GROUPS: [_counted(group, optimizer.defaults) for group in optimizer.param_groups]}
    )


def _counted(group: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an optimizer itself counts in a group, such as Prodigy's estimate: whatever isn't what it was built with."""
    found: dict[str, Any] = {}
    for name, value in group.items():
        if name in GIVEN:
            continue
        if isinstance(value, Tensor):
            found[name] = {TENSOR: value.tolist()}
        elif type(value) in (int, float) and value != defaults.get(name):
            found[name] = value
    return found


def restore_optimizer(
    optimizer: torch.optim.Optimizer, names: Mapping[nn.Parameter, str], tensors: Mapping[str, Tensor], text: str
) -> None:
    """Put a saved state back."""
    plain = json.loads(text)
    groups = plain.pop(GROUPS, [])
    states: dict[str, dict[str, Any]] = {}
    for key, value in [*((key, t) for key, t in tensors.items() if "@" not in key.partition(":")[0]), *plain.items()]:
        kind, _, name = key.partition(":")
        if isinstance(value, Mapping):
            value = _unpacked(value, {k.partition(":")[0]: t for k, t in _parts(tensors, kind, name)})
        group, nested, kind = kind.rpartition("/")
        own = states.setdefault(name, {})
        (own.setdefault(group, {}) if nested else own)[kind] = value
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    by_place = {place: states[names[p]] for place, p in enumerate(parameters) if names[p] in states}
    if any(isinstance(value, Mapping) for state in by_place.values() for value in state.values()):
        optimizer.load_state_dict({"state": by_place, "param_groups": optimizer.state_dict()["param_groups"]})
    else:  # torch's own would turn every state into the parameter's number format
        for place, state in by_place.items():
            parameter = parameters[place]
            optimizer.state[parameter] = {name: _beside(parameter, name, value) for name, value in state.items()}
    for group, counted in zip(optimizer.param_groups, groups, strict=False):
        device = group["params"][0].device
        for name, value in counted.items():
            group[name] = torch.tensor(value[TENSOR], device=device) if isinstance(value, Mapping) else value


def _beside(parameter: nn.Parameter, name: str, value: Any) -> Any:
    """Return a state where its parameter is; torch keeps the count of steps in the CPU's memory."""
    moved = isinstance(value, Tensor) and (name != "step" or value.ndim > 0)
    return value.to(parameter.device) if moved else value


def _parts(tensors: Mapping[str, Tensor], kind: str, name: str) -> Iterator[tuple[str, Tensor]]:
    for key, tensor in tensors.items():
        if key.startswith(f"{kind}@") and key.endswith(f":{name}"):
            yield key.removeprefix(f"{kind}@"), tensor


def _unpacked(stored: Mapping[str, Any], parts: Mapping[str, Tensor]) -> Tensor:
    module, _, name = stored[PACKED].partition(":")
    assert module.startswith(LIBRARY), "written by this file"
    shape = torch.Size(stored["shape"])
    about = [_about(each) for each in stored["about"]]
    made: Tensor = getattr(importlib.import_module(module), name).__tensor_unflatten__(dict(parts), about, shape, None)
    return made


def _about(stored: Any) -> Any:
    """Return what a quantised state is told of itself: a size, a number format, or a plain value."""
    if isinstance(stored, list):
        return torch.Size(stored)
    return getattr(torch, stored[DTYPE]) if isinstance(stored, Mapping) else stored
