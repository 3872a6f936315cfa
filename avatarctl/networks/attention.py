"""Attention backends of diffusers: which ones run here, and setting one on a transformer."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from torch import nn

from avatarctl.errors import DeviceError, UsageError
from avatarctl.networks.audio_adapter import AudioAdapter


def usable_attention(device: torch.device) -> list[str]:
    """List the attention backends that can run on ``device`` here (not those that would download kernels).

    Each one is tried: one that faults may end the process, so ask in a process of its own, or name one backend alone
    (:func:`check_attention`).
    """
    names = [backend.value for backend in AttentionBackendName if not backend.value.endswith("_hub")]
    return [name for name in names if _runs(name, device)]


def check_attention(name: str, device: torch.device) -> str:
    """Return the name of a backend that runs on ``device``; tries that one alone.

    Raises ``UsageError`` for a name that diffusers doesn't know, ``DeviceError`` for one that doesn't run here.
    """
    known = [backend.value for backend in AttentionBackendName]
    if name not in known:
        raise UsageError(f"attention: got '{name}', expected auto or one of {', '.join(sorted(known))}")
    if name.endswith("_hub") or not _runs(name, device):
        why = "it downloads its kernel" if name.endswith("_hub") else "its package or kernel doesn't run here"
        raise DeviceError(
            f"attention '{name}': not usable on {device} ({why})",
            "use --attention auto; `avatarctl doctor` lists the backends that run here",
        )
    return name


def set_attention(model: nn.Module, name: str) -> None:
    """Set the backend on this model's processors alone: diffusers' own setter changes the default of the process too."""
    backend = AttentionBackendName(name)
    for module in model.modules():
        if isinstance(module, AttentionModuleMixin):
            module.processor._attention_backend = backend
    for module in model.modules():
        if isinstance(module, AudioAdapter):
            # Its heads are 192 or 640 wide, more than flash kernels take.
            blocks: Any = module.blocks
            for block in blocks:
                block.attn2.processor._attention_backend = AttentionBackendName.NATIVE


def _runs(name: str, device: torch.device) -> bool:
    """Try a backend on a tiny attention: whether a package or kernel works shows only then."""
    probe = torch.zeros(1, 16, 2, 64, device=device, dtype=torch.bfloat16 if device.type == "cuda" else torch.float32)
    function = _AttentionBackendRegistry._backends.get(AttentionBackendName(name))
    if function is None:
        return False
    with warnings.catch_warnings():  # torch warns of backends that work better compiled; it was only tried
        warnings.simplefilter("ignore")
        try:
            function(probe, probe, probe)
            if device.type == "cuda":
                torch.cuda.synchronize(device)  # a kernel's fault shows here, not at the next call
        except (RuntimeError, ImportError, ValueError, TypeError, AttributeError, NotImplementedError, AssertionError):
            return False
    return True
