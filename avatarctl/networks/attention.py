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


CUDNN_CAPABILITIES = (
    9,
    10,
)  # Hopper and data-centre Blackwell, where its kernels are the fastest (by their makers' figures)
FUSED = ("_native_flash", "_native_efficient")
HEAD_WIDTH = 128
KEYS = (257, 512, 12)  # of the image, the text, and the voice in a latent frame


def best_attention(device: torch.device, dtype: torch.dtype, capability: tuple[int, int]) -> str:
    """Return the backend to use on a GPU: cuDNN's where its kernels are fastest, else flash, else memory-efficient attention.

    Each is tried with the shapes of a render. Where none runs, torch chooses, and a warning says so: its plain kernel takes
    more memory than a GPU has.
    """
    names = ["_native_cudnn"] if capability[0] in CUDNN_CAPABILITIES else []
    for name in (*names, *FUSED):
        if all(_runs(name, device, dtype, keys, HEAD_WIDTH) for keys in KEYS):
            return name
    warnings.warn(
        f"attention: no fused kernel runs on {device} in {str(dtype).removeprefix('torch.')}; torch's plain one needs tens of "
        "gigabytes at 512x512: use --dtype bfloat16 or float16, or name a backend that `avatarctl doctor` lists",
        stacklevel=2,
    )
    return "native"


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


def _runs(
    name: str, device: torch.device, dtype: torch.dtype | None = None, keys: int = 16, head_width: int = 64
) -> bool:
    """Try a backend on a small attention: whether a package or kernel works shows only then."""
    dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
    function = _AttentionBackendRegistry._backends.get(AttentionBackendName(name))
    if function is None:
        return False
    with warnings.catch_warnings():  # torch warns of backends that work better compiled; it was only tried
        warnings.simplefilter("ignore")
        try:
            query, key = (torch.zeros(1, length, 2, head_width, device=device, dtype=dtype) for length in (16, keys))
            function(query, key, key)
            if device.type == "cuda":
                torch.cuda.synchronize(device)  # a kernel's fault shows here, not at the next call
        except (RuntimeError, ImportError, ValueError, TypeError, AttributeError, NotImplementedError, AssertionError):
            return False
    return True
