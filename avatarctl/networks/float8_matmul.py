"""Multiply in float8 where the device has it: torchao's training layers in the blocks of a transformer."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from avatarctl.errors import DeviceError, UsageError

NEEDED = (8, 9)  # compute capability: RTX 40, L4, L40, H100 and newer
MULTIPLE = 16  # of sizes that the kernels take


def to_float8_matmul(transformer: nn.Module, device: torch.device, emulate: bool = False) -> int:
    """Let the linear layers of the blocks multiply in float8, with a scale per row; return their number.

    Weights stay as they are, and learn as before. ``emulate``: compute the same with other kernels, on any device, slowly.
    Raises ``DeviceError`` on a device that can't, ``UsageError`` without torchao.
    """
    if not emulate and (device.type != "cuda" or torch.cuda.get_device_capability(device) < NEEDED):
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
        raise DeviceError(
            f"matmul: float8 needs a GPU that multiplies in it (RTX 40, L4, H100 or newer), got {name}",
            "--set matmul=same; base_dtype=float8 saves memory on any GPU",
        )
    try:
        import torchao.float8 as float8
    except ImportError as error:
        raise UsageError("matmul: float8 needs torchao, which is not installed", "pip install torchao") from error
    config: Any = float8.Float8LinearConfig.from_recipe_name("rowwise")
    if emulate:
        object.__setattr__(config, "emulate", True)
    count = 0

    def fits(module: nn.Module, name: str) -> bool:
        nonlocal count
        chosen = (
            isinstance(module, nn.Linear)
            and name.startswith("blocks.")
            and not module.in_features % MULTIPLE
            and not module.out_features % MULTIPLE
        )
        count += chosen
        return chosen

    float8.convert_to_float8_training(transformer, config=config, module_filter_fn=fits)
    return count
