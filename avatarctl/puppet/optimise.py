"""Muon for the matrices of a small network and AdamW for the rest, with one learning-rate curve and a plain state."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from avatarctl.training.optimizer_state import optimizer_tensors, restore_optimizer


class Optimiser:
    """Muon (Jordan et al. 2024) on weights of two or more axes, taken as matrices (outputs, rest); AdamW on the rest.

    The rates fall from 1 to 0.1 over ``steps`` (a cosine), then to 0 over ``fade_steps`` (a line).
    """

    def __init__(
        self, model: nn.Module, muon_rate: float, adam_rate: float, steps: int, fade_steps: int = 0, warmup: int = 50
    ) -> None:
        self.steps, self.fade_steps, self.warmup = steps, fade_steps, warmup
        named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        self._wide = [(name, p) for name, p in named if p.ndim >= 2 and min(p.shape[0], p[0].numel()) > 4]
        chosen = {name for name, _ in self._wide}
        self._rest = [(name, p) for name, p in named if name not in chosen]
        # The same memory under another shape: Muon knows matrices alone.
        self._matrices = [nn.Parameter(parameter.data.view(parameter.shape[0], -1)) for _, parameter in self._wide]
        self._muon = torch.optim.Muon(self._matrices, lr=muon_rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
        self._adam = torch.optim.AdamW([p for _, p in self._rest], lr=adam_rate, betas=(0.9, 0.99), weight_decay=0.0)
        self._rates = (muon_rate, adam_rate)

    def step(self, number: int, clip_norm: float = 1.0) -> float:
        """Take step ``number`` (from 0) with the gradients that are there; return their length before clipping."""
        share = min((number + 1) / self.warmup, 1.0) * (0.55 + 0.45 * math.cos(math.pi * min(number / self.steps, 1.0)))
        if number >= self.steps:
            share *= max(1 - (number - self.steps) / max(self.fade_steps, 1), 0.0)
        for optimizer, rate in zip((self._muon, self._adam), self._rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * share
        norm = torch.nn.utils.clip_grad_norm_([p for _, p in [*self._wide, *self._rest]], clip_norm)
        for matrix, (_, parameter) in zip(self._matrices, self._wide, strict=True):
            # None where a batch leaves a weight out, as single pictures do with layers over time: it stays as it is.
            matrix.grad = None if parameter.grad is None else parameter.grad.view(parameter.shape[0], -1)
        self._muon.step()
        self._adam.step()
        for _, parameter in [*self._wide, *self._rest]:
            parameter.grad = None
        return float(norm)

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, str]]:
        """Return the state as files of tensors, and what isn't a tensor."""
        muon, muon_rest = optimizer_tensors(self._muon, self._matrix_names())
        adam, adam_rest = optimizer_tensors(self._adam, _names(self._rest))
        return {"muon": muon, "adam": adam}, {"muon": muon_rest, "adam": adam_rest}

    def restore(self, files: Mapping[str, Mapping[str, Tensor]], rest: Mapping[str, str]) -> None:
        """Put back what :meth:`state` gave."""
        restore_optimizer(self._muon, self._matrix_names(), files["muon"], rest["muon"])
        restore_optimizer(self._adam, _names(self._rest), files["adam"], rest["adam"])

    def _matrix_names(self) -> dict[nn.Parameter, str]:
        return {matrix: name for matrix, (name, _) in zip(self._matrices, self._wide, strict=True)}


def _names(named: Sequence[tuple[str, nn.Parameter]]) -> dict[nn.Parameter, str]:
    return {parameter: name for name, parameter in named}
