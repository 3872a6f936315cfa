"""Settings of where and how the networks compute."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator

from avatarctl.settings.base import Settings
from avatarctl.settings.values import check_device


class PlacementSettings(Settings):
    """Where and how the networks compute."""

    device: Annotated[str, AfterValidator(check_device)] = "auto"
    """auto (the first GPU, else the CPU), cpu, cuda or cuda:N."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the computation; auto fits the device.

    auto: bfloat16 on GPUs that have it, float32 on the CPU.
    """
    memory: Literal["full", "model", "group", "sequential"] = "full"
    """What is kept on the GPU; less is slower.

    full: everything. model: one network at a time. group: some layers of the transformer, streamed. sequential: single
    layers.
    """
    weights_dtype: Literal["same", "float8"] = "same"
    """float8 halves the memory of the transformer; pictures change slightly.

    Its weights are stored in one byte each, and computed with in dtype.
    """
    attention: str = "auto"
    """How attention is computed; auto chooses what this machine has.

    A backend of diffusers: native, flash, _flash_3, sage …
    """
    compile: bool = False
    """Compile the transformer: minutes at the start, faster afterwards."""
    vae_tiling: bool = False
    """Decode pictures in tiles: less memory; seams are blended, not invisible."""
