"""Build the optimizer, and tell its learning rate and the longest gradient of a step."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from avatarctl.errors import UsageError
from avatarctl.networks.attach import group_of
from avatarctl.settings.train import TrainSettings

OUTLIER = 5.0  # times the limit
# Name in settings -> library, class, and options that make it fit the other settings.
OPTIMIZERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "adamw": ("torch.optim", "AdamW", {}),
    "adamw8bit": ("bitsandbytes.optim", "AdamW8bit", {}),
    "lion8bit": ("bitsandbytes.optim", "Lion8bit", {}),
    "adamw8bit-torchao": ("torchao.optim", "AdamW8bit", {}),
    "adamw4bit-torchao": ("torchao.optim", "AdamW4bit", {}),
    "prodigy": ("pytorch_optimizer", "Prodigy", {"safeguard_warmup": True, "bias_correction": True}),
    "adafactor": ("pytorch_optimizer", "AdaFactor", {"relative_step": False, "scale_parameter": False}),
    "came": ("pytorch_optimizer", "CAME", {}),
    "lion": ("pytorch_optimizer", "Lion", {}),
    "muon": ("pytorch_optimizer", "Muon", {"use_adjusted_lr": True}),
}
PACKAGES = {
    "bitsandbytes": "bitsandbytes",
    "torchao": "torchao",
    "pytorch_optimizer": "pytorch-optimizer",
    "torch": "torch",
}


def make_optimizer(named: Sequence[tuple[str, nn.Parameter]], settings: TrainSettings) -> torch.optim.Optimizer:
    """Return the optimizer of the settings over named parameters; groups that learn faster or slower are groups of it.

    Raises ``UsageError`` for a library that isn't installed, or options that the optimizer doesn't take.
    """
    library, name, fixed = OPTIMIZERS[settings.optimizer]
    module = _import(settings.optimizer, library)
    kind: Any = getattr(module, name)
    takes = inspect.signature(kind.__init__).parameters
    ours = {
        "lr": settings.learning_rate,
        "betas": (*settings.betas, 0.9999) if name == "CAME" else settings.betas,
        "eps": settings.epsilon,
        "weight_decay": settings.weight_decay,
    }
    if name == "Muon":
        first = settings.betas[0]
        ours |= {"momentum": first, "adamw_betas": settings.betas, "adamw_eps": settings.epsilon}
        ours |= {"adamw_lr": settings.learning_rate, "adamw_wd": settings.weight_decay}
    known = {key: value for key, value in ours.items() if key in takes}
    if unknown := sorted(
        set(settings.optimizer_options) - set(takes) - {"params"} | ({"lr"} & set(settings.optimizer_options))
    ):
        raise UsageError(
            f"optimizer_options: got {', '.join(unknown)}, expected options of {name}: "
            + ", ".join(sorted(set(takes) - {"self", "params", "kwargs", "lr"})),
            "learning_rate, betas, epsilon and weight_decay are settings of their own",
        )
    options = {**known, **fixed, **settings.optimizer_options}
    try:
        optimizer: torch.optim.Optimizer = kind(_groups(named, settings, name == "Muon"), **options)
    except (ValueError, TypeError) as error:
        raise UsageError(f"optimizer_options: {name} refuses them ({error})", "leave them out") from error
    return optimizer


def _import(optimizer: str, library: str) -> Any:
    try:
        return importlib.import_module(library)
    except ImportError as error:
        package = PACKAGES[library.partition(".")[0]]
        raise UsageError(
            f"optimizer: {optimizer} needs {package}, which is not installed", f"pip install {package}"
        ) from error


def _groups(named: Sequence[tuple[str, nn.Parameter]], settings: TrainSettings, muon: bool) -> list[dict[str, Any]]:
    """Return groups of parameters, each with its ``share`` of the learning rate."""
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in named:
        rates = {str(group): rate for group, rate in settings.learning_rates.items()}
        rate = rates.get(group_of(name), settings.learning_rate)
        # Matrices of hidden layers; what comes before and after them, and vectors, learn by AdamW (Jordan 2024).
        matrix = muon and parameter.ndim == 2 and group_of(name) != "embeddings"
        groups.setdefault((rate / settings.learning_rate, matrix), []).append(parameter)
    return [
        {"params": members, "lr": settings.learning_rate * share, "share": share}
        | ({"use_muon": matrix} if muon else {})
        for (share, matrix), members in groups.items()
    ]


def set_learning_rates(optimizer: torch.optim.Optimizer, settings: TrainSettings, step: int) -> None:
    """Set the learning rates of a step (counted from 0) in every group."""
    rate = learning_rate(settings, step)
    for group in optimizer.param_groups:
        own = rate * group.get("share", 1.0)
        if isinstance(group["lr"], torch.Tensor):  # torchao compiles its step, with the rate as an input
            group["lr"].fill_(own)
        else:
            group["lr"] = own
        if "adamw_lr" in group:
            group["adamw_lr"] = own


def learning_rate(settings: TrainSettings, step: int) -> float:
    """Return the learning rate of a step (counted from 0): a linear warm-up, then the schedule down to its floor."""
    shape = _schedule(
        settings.decay, settings.warmup_steps, settings.steps, settings.decay_cycles, settings.decay_power
    )
    if step < settings.warmup_steps:
        return settings.learning_rate * shape(step + 1)
    floor = settings.decay_floor if settings.decay != "constant" else 0.0
    return settings.learning_rate * (floor + (1 - floor) * shape(min(step, settings.steps)))


@lru_cache(maxsize=4)
def _schedule(decay: str, warmup: int, steps: int, cycles: int, power: float) -> Callable[[int], float]:
    """Return diffusers' schedule as a function of the step; it keeps no state, so a resumed run needs none."""
    from diffusers.optimization import get_scheduler

    # Any optimizer will do: the schedule is a factor.
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=1.0)
    name = "constant_with_warmup" if decay == "constant" else decay
    made = get_scheduler(
        name,
        optimizer,
        num_warmup_steps=warmup,
        num_training_steps=max(steps, warmup + 1),
        num_cycles=cycles,
        power=power,
    )
    shape: Callable[[int], float] = made.lr_lambdas[0]
    return shape


def clip_limit(settings: TrainSettings, step: int) -> float:
    """Return the longest gradient of a step (counted from 0): ``clip_start`` times ``clip_norm``, falling to once."""
    left = max(1 - step / settings.clip_fall_steps, 0.0)
    return settings.clip_norm * (1 + (settings.clip_start - 1) * left)


def shorten_outlier(parameters: Iterable[nn.Parameter], settings: TrainSettings, step: int, norm: float) -> None:
    """Shorten once more a clipped gradient that was far too long (``norm`` before clipping), as the released trainer does."""
    times = norm / clip_limit(settings, step)
    if settings.clip_outliers > 1 and step > settings.clip_fall_steps and times > OUTLIER:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.div_(min(times, settings.clip_outliers))
