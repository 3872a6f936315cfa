"""Refuse a device that can't be there before torch is imported; what remains, torch is asked."""

from __future__ import annotations

import ast
import importlib.util
import os
import sys
from pathlib import Path
from typing import Literal

from avatarctl.errors import DeviceError, UsageError

# Compiling takes a minute or two and saves about a quarter of a pass.
COMPILE_FROM_PASSES = 500
FLOAT8_CAPABILITY = (8, 9)  # Ada; products of float8 matrices


def let_segments_grow() -> None:
    """Ask torch's allocator, before it starts, for memory that grows: less of it lies unused between networks of many sizes."""
    known = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
    if sys.platform == "linux" and not any(name in os.environ for name in known) and torch_has_gpus():
        os.environ[known[0]] = "expandable_segments:True"


def refuse_missing(device: str) -> None:
    """Raise ``DeviceError`` for a GPU where torch is built without any, or none is visible to this process."""
    if not device.startswith("cuda"):
        return
    hint = "use --device cpu, or see what this machine has: avatarctl doctor"
    if not torch_has_gpus():
        raise DeviceError(f"device {device}: no GPU is usable, torch is built for the CPU alone", hint)
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        raise DeviceError(f"device {device}: no GPU is usable, CUDA_VISIBLE_DEVICES hides all from this process", hint)


def may_compile(compile_: bool | Literal["auto"], device: str, passes: int | None = None) -> bool:
    """Return whether a render may compile its transformer, as far as settings and the build of torch tell.

    ``passes``: of the transformer in all; None where nobody knows yet.
    """
    if compile_ != "auto":
        return compile_
    return device != "cpu" and (passes is None or passes >= COMPILE_FROM_PASSES) and torch_has_gpus()


def refuse_float8_matmul(weights_dtype: str, capability: tuple[int, int], device: str) -> None:
    """Raise an error where float8 matrices can't be multiplied: weights that aren't stored so, or a device that can't."""
    if weights_dtype != "float8":
        raise UsageError(
            "matmul_dtype float8: got weights_dtype same, expected float8 (weights are multiplied as they are stored)",
            "add --weights-dtype float8, or leave out --matmul-dtype",
        )
    if capability < FLOAT8_CAPABILITY:
        wanted = ".".join(map(str, FLOAT8_CAPABILITY))
        raise DeviceError(
            f"matmul_dtype float8: {device} doesn't multiply float8 matrices, expected a GPU of compute capability {wanted} "
            "or newer",
            "use --matmul-dtype same: float8 weights are stored in one byte all the same",
        )


def torch_has_gpus() -> bool:
    """Return whether torch is built for GPUs, as its version.py says; True where that can't be read."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return True
    try:
        lines = ast.parse(Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")).body
    except (OSError, SyntaxError):
        return True
    built: dict[str, object] = {}
    for line in lines:
        if isinstance(line, ast.AnnAssign | ast.Assign) and isinstance(line.value, ast.Constant):
            target = line.target if isinstance(line, ast.AnnAssign) else line.targets[0]
            built[ast.unparse(target)] = line.value.value
    return "cuda" not in built or any(built.get(name) for name in ("cuda", "hip", "rocm"))
