"""Store a sample without what is the same in all of them, and put it back: the condition's mask, and grey pictures.

The reference condition is a mask that never changes and the latents of a picture followed by grey ones. The further from the
picture, the more those are the latents of grey alone, which a cache holds once for each size (``grey/``): of a sample only
the difference is stored, in steps as fine as its number format rounds, and packed. Masks are bytes, packed too; those that
are missing are not stored.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from avatarctl import durable
from avatarctl.data.shards import GREY, SampleEntry, read_tensors
from avatarctl.errors import InputFileError

MASK_CHANNELS = 4
# Number format on disk -> steps of the difference per unit: a step is what rounding to the format costs near one.
STEPS = {torch.bfloat16: 128, torch.float16: 1024}
LEVEL = 1  # of packing: more is slower and hardly smaller
MASKS = ("face_mask", "lip_mask")


# -- Packing -----------------------------------------------------------------------------------------------------------


def pack(
    tensors: Mapping[str, Tensor], reference_CTHW: Tensor | None, grey_CTHW: Tensor, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Return what is stored of a sample: its tensors in ``dtype``, its reference as a difference from grey, packed masks.

    ``reference_CTHW``: latents of the first picture followed by grey ones; None for a picture, which has no reference.
    """
    stored = {name: tensor.to("cpu", dtype) for name, tensor in tensors.items() if name not in MASKS}
    for name in MASKS:
        if name in tensors:
            stored[f"{name}.packed"] = _packed((tensors[name].float() * 255).round().numpy().astype(np.uint8))
    if reference_CTHW is None:
        return stored
    if dtype not in STEPS:
        return {**stored, "reference": reference_CTHW.to("cpu", dtype)}
    steps = (reference_CTHW.float().cpu() - grey_CTHW.float()) * STEPS[dtype]
    return {**stored, "reference.packed": _packed(steps.round().clamp(-32768, 32767).numpy().astype("<i2"))}


def unpack(stored: Mapping[str, Tensor], grey: Callable[[], Tensor]) -> dict[str, Tensor]:
    """Return a sample's tensors as training takes them; ``grey`` returns the latents of grey pictures (C, T, H, W).

    A sample that was stored whole stays as it is.
    """
    if "condition" in stored:
        return dict(stored)
    latents = stored["latents"]
    channels, frames, height, width = latents.shape
    tensors = {name: tensor for name, tensor in stored.items() if "." not in name and name != "reference"}
    for name in MASKS:
        if f"{name}.packed" in stored:
            values = _unpacked(stored[f"{name}.packed"], np.uint8, (frames, height, width))
            tensors[name] = torch.from_numpy(values.astype(np.float32) / 255).half()
        else:
            tensors[name] = torch.ones(frames, height, width, dtype=torch.float16)
    mask = torch.zeros(MASK_CHANNELS, frames, height, width)
    if "reference" in stored:
        reference = stored["reference"].float()
        mask[:, 0] = 1
    elif "reference.packed" in stored:
        steps = _unpacked(stored["reference.packed"], "<i2", (channels, frames, height, width))
        reference = grey()[:, :frames].float() + torch.from_numpy(steps.astype(np.float32)) / STEPS[latents.dtype]
        mask[:, 0] = 1
    else:  # a picture: nothing is known of it beforehand
        reference = grey()[:, :frames].float()
    tensors["condition"] = torch.cat([mask, reference])
    return tensors


def _packed(values: np.ndarray) -> Tensor:
    """Return numbers as packed bytes; the bytes of a number apart, since the upper ones are nearly all the same."""
    apart = np.ascontiguousarray(values.reshape(-1)).view(np.uint8).reshape(-1, values.itemsize).T
    return torch.frombuffer(bytearray(zlib.compress(apart.tobytes(), LEVEL)), dtype=torch.uint8)


def _unpacked(packed: Tensor, kind: type[np.generic] | str, shape: tuple[int, ...]) -> np.ndarray:
    dtype = np.dtype(kind)
    apart = np.frombuffer(zlib.decompress(packed.numpy().tobytes()), np.uint8).reshape(dtype.itemsize, -1)
    return np.ascontiguousarray(apart.T).view(dtype).reshape(shape)


# -- Grey pictures -----------------------------------------------------------------------------------------------------


def grey_name(shape_CTHW: tuple[int, ...]) -> str:
    """Return the name of the file with the latents of grey pictures of a size."""
    return "x".join(str(size) for size in shape_CTHW) + ".safetensors"


def grey_of(cache: Path, shape_CTHW: tuple[int, ...], encode: Callable[[], Tensor], dtype: torch.dtype) -> Tensor:
    """Return the latents of grey pictures of a size; the first process that needs them encodes and writes them."""
    from safetensors.torch import save

    path = cache / GREY / grey_name(shape_CTHW)
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                durable.replace(path, save({"grey": encode().to("cpu", dtype).contiguous()}))
    return read_grey(cache, shape_CTHW)


def read_grey(cache: Path, shape_CTHW: tuple[int, ...]) -> Tensor:
    """Return the latents of grey pictures that a cache holds; raises ``InputFileError`` when they are missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = cache / GREY / grey_name(shape_CTHW)
    try:
        return load(path.read_bytes())["grey"]
    except (OSError, SafetensorError, KeyError) as error:
        raise InputFileError(
            f"{path}: missing or damaged ({error}), and every sample of its size needs it",
            f"encode again: avatarctl data encode SOURCE --output {cache} --force",
        ) from error


def read_sample(cache: Path, entry: SampleEntry) -> dict[str, Tensor]:
    """Return a sample's tensors as training takes them, condition and masks included; raises ``InputFileError``."""
    stored = read_tensors(cache, entry)
    return unpack(stored, lambda: read_grey(cache, entry.shapes["latents"]))
