"""Settings of where and how the networks compute."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator

from avatarctl.settings.base import Settings
from avatarctl.settings.values import AutoOrBool, check_device


class PlacementSettings(Settings):
    """Where and how the networks compute."""

    device: Annotated[str, AfterValidator(check_device)] = "auto"
    """auto (the first GPU, else the CPU), cpu, cuda or cuda:N."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the computation; auto fits the device.

    auto: bfloat16 on GPUs that have it, float32 on the CPU.
    """
    memory: Literal["auto", "full", "model", "group", "sequential"] = "auto"
    """What is kept on the GPU; less is slower. auto: as much as fits.

    full: everything. model: one network at a time. group: some layers of the transformer, streamed. sequential: single
    layers. auto calculates which of them fits the memory that is free, and tells.
    """
    weights_dtype: Literal["same", "float8"] = "same"
    """float8 halves the memory of the transformer; pictures change slightly.

    Its weights are stored in one byte each, and computed with in dtype.
    """
    matmul_dtype: Literal["same", "float8"] = "same"
    """float8 multiplies float8 weights as they are: faster, less exact.

    What they are multiplied with is rounded to one byte, too. It needs weights_dtype float8, and a GPU of compute capability
    8.9 or newer (RTX 40, L4, L40S, H100 …).
    """
    attention: str = "auto"
    """How attention is computed; auto chooses what this machine has.

    auto: cuDNN's on compute capability 10, else flash or memory-efficient attention. Or a backend of diffusers: native,
    flash, _flash_3, sage …
    """
    compile: AutoOrBool = "auto"
    """Compile the transformer: minutes at the start, faster afterwards.

    auto: on a GPU, for a render that is long enough to be faster in the end.
    """
    vae_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the VAE, which decodes the pictures.

    auto: bfloat16 on GPUs that have it (half of the memory), float32 elsewhere.
    """
    vae_tiling: AutoOrBool = "auto"
    """Decode pictures in tiles: less memory; seams are blended, not invisible.

    auto: only where whole pictures fit no memory mode, then in the fewest tiles that fit.
    """
