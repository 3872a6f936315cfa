"""The optimizer, its learning rate at a step, and its state as plain tensors."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from avatarctl.errors import UsageError
from avatarctl.settings.train import TrainSettings


def make_optimizer(parameters: Sequence[nn.Parameter], settings: TrainSettings) -> torch.optim.Optimizer:
    """Return AdamW, with 32 or 8 bits per state."""
    common: dict[str, Any] = {
        "lr": settings.learning_rate,
        "betas": settings.betas,
        "eps": settings.epsilon,
        "weight_decay": settings.weight_decay,
    }
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, **common)
    try:
        import bitsandbytes
    except ImportError as error:
        raise UsageError(
            "optimizer: adamw8bit needs bitsandbytes, which is not installed", "pip install bitsandbytes"
        ) from error
    optimizer: torch.optim.Optimizer = bitsandbytes.optim.AdamW8bit(parameters, **common)
    return optimizer


def learning_rate(settings: TrainSettings, step: int) -> float:
    """Return the learning rate of a step (counted from 0): a linear warm-up, then constant or a cosine down to a tenth."""
    rate = settings.learning_rate
    if step < settings.warmup_steps:
        return rate * (step + 1) / settings.warmup_steps
    if settings.decay == "constant":
        return rate
    share = (step - settings.warmup_steps) / max(settings.steps - settings.warmup_steps, 1)
    return rate * (0.55 + 0.45 * math.cos(math.pi * min(share, 1.0)))


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, names: Sequence[str], whole: bool = True
) -> tuple[dict[str, Tensor], str]:
    """Return the state as tensors named ``STATE:PARAMETER``, and what isn't a tensor as JSON.

    ``whole``: on the CPU; else they stay spread over the processes as their parameters are. bitsandbytes nests its
    states one deeper: ``GROUP/STATE:PARAMETER``.
    """
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for index, state in optimizer.state_dict()["state"].items():
        flat = {key: value for key, value in state.items() if not isinstance(value, Mapping)}
        for group, inner in state.items():
            if isinstance(inner, Mapping):
                flat |= {f"{group}/{key}": value for key, value in inner.items()}
        for key, value in flat.items():
            if isinstance(value, Tensor):
                # Its small tables are one tensor for all parameters, which a file can't hold.
                own = value.detach().cpu() if whole else value.detach()
                tensors[f"{key}:{names[index]}"] = own.clone() if own.numel() <= 256 else own
            else:
                plain[f"{key}:{names[index]}"] = value
    return tensors, json.dumps(plain)


def restore_optimizer(
    optimizer: torch.optim.Optimizer, names: Sequence[str], tensors: Mapping[str, Tensor], plain: str
) -> None:
    """Put a saved state back."""
    places = {name: index for index, name in enumerate(names)}
    state: dict[int, dict[str, Any]] = {}
    for key, value in [*tensors.items(), *json.loads(plain).items()]:
        kind, _, name = key.partition(":")
        group, nested, kind = kind.rpartition("/")
        own = state.setdefault(places[name], {})
        (own.setdefault(group, {}) if nested else own)[kind] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
