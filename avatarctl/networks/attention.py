"""Attention backends of diffusers: which ones run here, and setting one on a transformer."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from torch import nn

from avatarctl.errors import DeviceError, UsageError
from avatarctl.networks.audio_adapter import AudioAdapter

if TYPE_CHECKING:
    from avatarctl.networks.placement import Placement


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


CUDNN_CAPABILITIES = (10,)  # data-centre Blackwell: its kernels are the fastest by their makers' figures
FUSED = ("_native_flash", "_native_efficient")
HEAD_WIDTH = 128
KEYS = (257, 512, 12)  # of the image, the text, and the voice in a latent frame


def best_attention(device: torch.device, dtype: torch.dtype, capability: tuple[int, int]) -> str:
    """Return the backend to use on a GPU: cuDNN's where its kernels are fastest, else flash, else memory-efficient attention.

    On an H100 (torch 2.11) a pass at 512x512 takes 0.351 s with torch's own choice, 0.375 s with cuDNN's, 0.708 s with
    memory-efficient attention.
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


def fitting_attention(name: str, placement: Placement, head_width: int) -> str:
    """Return the backend for heads of this width: the one that was decided on, or "native", by which torch chooses itself.

    Backends are decided on before a network is read; some take no heads but of a multiple of eight numbers.
    Raises ``DeviceError`` for one that the user asked for.
    """
    device, dtype = placement.device, placement.dtype
    if head_width == HEAD_WIDTH or all(_runs(name, device, dtype, keys, head_width) for keys in KEYS):
        return name
    if placement.attention_asked:
        raise DeviceError(
            f"attention '{name}': takes no heads of {head_width} numbers in {str(dtype).removeprefix('torch.')} on {device}, "
            "as this transformer has them",
            "use --attention auto",
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
