"""Decide where and how the networks compute from the settings and this machine; refuse what can't work."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

import torch

from avatarctl.errors import DeviceError, UsageError
from avatarctl.settings.placement import PlacementSettings

Role = Literal["transformer", "vae", "text encoder", "image encoder", "speech encoder"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Small and sensitive networks compute in float32 whatever the transformer does.
FLOAT32_ROLES: tuple[Role, ...] = ("vae", "speech encoder")
BFLOAT16_CAPABILITY = (8, 0)  # Ampere; older GPUs emulate it, without fused attention


@dataclass(frozen=True)
class Placement:
    """Settings with every ``auto`` decided."""

    device: torch.device
    dtype: torch.dtype
    memory: str
    float8: bool
    attention: str | None  # None: torch's own choice
    compile: bool

    def dtype_of(self, role: Role) -> torch.dtype:
        """Return the dtype that the network of this role computes in."""
        return torch.float32 if role in FLOAT32_ROLES else self.dtype


def decide(settings: PlacementSettings) -> Placement:
    """Decide every ``auto`` for this machine and refuse what it can't do.

    Raises ``DeviceError`` for devices, dtypes and attention backends that aren't there, ``UsageError`` for settings that
    contradict each other.
    """
    device = device_named(settings.device)
    dtype = _dtype(settings.dtype, device)
    if settings.compile and settings.memory == "sequential":
        raise UsageError(
            "compile with memory mode sequential: got both, expected one (single layers come and go inside the "
            "compiled block)",
            "use --memory group, or leave compile off",
        )
    float8 = settings.weights_dtype == "float8"
    if float8 and dtype == torch.float16:
        raise UsageError(
            "float8 weights with float16 compute: got float16, expected bfloat16 or float32", "use --dtype bfloat16"
        )
    if device.type == "cpu" and settings.memory in ("group", "sequential"):
        warnings.warn(
            f"memory mode {settings.memory} saves nothing on the CPU: weights stay where they are", stacklevel=2
        )
    return Placement(device, dtype, settings.memory, float8, _attention(settings.attention, device), settings.compile)


def _attention(name: str, device: torch.device) -> str | None:
    if name == "auto":
        return None
    from avatarctl.networks.attention import check_attention

    return check_attention(name, device)


def device_named(name: str) -> torch.device:
    """Return the device that is meant: auto is the first GPU, or the CPU; raises ``DeviceError`` for one that isn't there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise DeviceError(
                f"device {name}: got a torch without a usable GPU (CUDA build: {torch.version.cuda or 'none'})",
                "use --device cpu, or check the driver with `avatarctl doctor`",
            )
        if (device.index or 0) >= torch.cuda.device_count():
            raise DeviceError(f"device {name}: got {torch.cuda.device_count()} GPUs, counted from cuda:0")
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype:
    has_bfloat16 = device.type != "cuda" or torch.cuda.get_device_capability(device) >= BFLOAT16_CAPABILITY
    if name != "auto":
        dtype = DTYPES[name]
        if dtype == torch.bfloat16 and not has_bfloat16:
            raise DeviceError(
                f"dtype bfloat16: {torch.cuda.get_device_name(device)} emulates it, slowly", "use --dtype float16"
            )
        return dtype
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if has_bfloat16 else torch.float16
