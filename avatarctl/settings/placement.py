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
    """Number format of the transformer: auto is bfloat16 on GPUs that have it, float32 on the CPU."""
    memory: Literal["full", "model", "group", "sequential"] = "full"
    """How much stays on the device: all, one network, streamed groups of layers, single layers."""
    weights_dtype: Literal["same", "float8"] = "same"
    """float8 stores the transformer's weights in one byte each and computes in dtype."""
    attention: str = "auto"
    """Attention backend of diffusers (native, flash, _flash_3, sage …), or auto."""
    compile: bool = False
    """Compile the transformer's blocks: minutes at the start, faster passes after."""
    vae_tiling: bool = False
    """Encode and decode in tiles: less memory, pictures not quite equal."""
