"""Decide where and how the networks compute from the settings and this machine; refuse what can't work."""

from __future__ import annotations

import contextlib
import gc
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

from avatarctl.errors import DeviceError, UsageError
from avatarctl.networks.devices import COMPILE_FROM_PASSES
from avatarctl.networks.memory import MODES, Fit, Formats, Workload, choose, estimate_of, ladder
from avatarctl.networks.tiling import Tiling, small_tiling, tiling_named
from avatarctl.settings.placement import PlacementSettings

Role = Literal["transformer", "vae", "text encoder", "image encoder", "speech encoder"]
Stage = Literal["conditions", "sampling", "decoding"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
BFLOAT16_CAPABILITY = (8, 0)  # Ampere; older GPUs emulate it, without fused attention
FLOAT8_CAPABILITY = (8, 9)  # Ada; products of float8 matrices


@dataclass(frozen=True)
class Placement:
    """Settings with every ``auto`` decided."""

    device: torch.device
    dtype: torch.dtype
    memory: str
    float8: bool
    attention: str | None  # None: torch's own choice
    compile: bool
    vae_dtype: torch.dtype = torch.float32
    tiling: Tiling | None = None
    float8_matmul: bool = False
    fit: Fit | None = field(default=None, compare=False)  # what the memory mode was chosen by

    def dtype_of(self, role: Role) -> torch.dtype:
        """Return the dtype that the network of this role computes in."""
        if role == "speech encoder":  # small and sensitive
            return torch.float32
        return self.vae_dtype if role == "vae" else self.dtype


def decide(
    settings: PlacementSettings,
    work: Workload | None = None,
    begun: Mapping[str, Any] | None = None,
    room: Placement | None = None,
) -> Placement:
    """Decide every ``auto`` for this machine and refuse what it can't do.

    ``work``: what memory mode, tiles and compilation are chosen for (None: everything on the device, nothing compiled).
    ``begun``: what was decided when a render began, as its manifest has it: what is left open and changes numbers stays so.
    ``room``: a placement of the same work whose networks are loaded: memory mode and tiles are its own.
    Raises ``DeviceError`` for devices, dtypes and attention backends that aren't there, ``UsageError`` for settings that
    contradict each other.
    """
    begun = begun or {}
    device = device_of(settings.device)
    dtype = _dtype(settings.dtype, device)
    float8 = settings.weights_dtype == "float8"
    if float8 and dtype == torch.float16:
        raise UsageError(
            "float8 weights with float16 compute: got float16, expected bfloat16 or float32", "use --dtype bfloat16"
        )
    if device.type == "cpu" and settings.memory in ("group", "sequential"):
        warnings.warn(
            f"memory mode {settings.memory} saves nothing on the CPU: weights stay where they are", stacklevel=2
        )
    if settings.compile is True and settings.memory == "sequential":
        raise UsageError(
            "compile with memory mode sequential: got both, expected one (single layers come and go inside the "
            "compiled block)",
            "use --memory group, or leave compile off",
        )
    decided = Placement(
        device,
        dtype,
        "full",
        float8,
        _attention(settings.attention, device, dtype, begun),
        _compile(settings, device, work, begun),
        _vae_dtype(settings.vae_dtype, device, begun),
        float8_matmul=settings.matmul_dtype == "float8" and check_float8_matmul(settings, device),
    )
    memory, tiling, fit = _room(settings, decided, work, begun, room)
    return replace(decided, memory=memory, tiling=tiling, fit=fit, compile=decided.compile and memory != "sequential")


def device_of(name: str) -> torch.device:
    """Return the device that a name means; raises ``DeviceError`` where it isn't there."""
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
    has_bfloat16 = device.type != "cuda" or capability(device) >= BFLOAT16_CAPABILITY
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


def capability(device: torch.device) -> tuple[int, int]:
    """Return the compute capability of a GPU; (0, 0) of the CPU."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)


def _vae_dtype(name: str, device: torch.device, begun: Mapping[str, Any]) -> torch.dtype:
    if name == "auto" and "vae_dtype" in begun:
        return DTYPES[begun["vae_dtype"]]
    if name == "bfloat16" and device.type == "cuda" and capability(device) < BFLOAT16_CAPABILITY:
        raise DeviceError(
            f"vae_dtype bfloat16: {torch.cuda.get_device_name(device)} emulates it, slowly", "use --vae-dtype float32"
        )
    if name == "auto":
        return torch.bfloat16 if capability(device) >= BFLOAT16_CAPABILITY else torch.float32
    return DTYPES[name]


def check_float8_matmul(settings: PlacementSettings, device: torch.device) -> bool:
    """Return True where float8 matrices can be multiplied; raises an error with the reason elsewhere."""
    if settings.weights_dtype != "float8":
        raise UsageError(
            "matmul_dtype float8: got weights_dtype same, expected float8 (weights are multiplied as they are stored)",
            "add --weights-dtype float8, or leave out --matmul-dtype",
        )
    if capability(device) < FLOAT8_CAPABILITY:
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
        wanted = ".".join(map(str, FLOAT8_CAPABILITY))
        raise DeviceError(
            f"matmul_dtype float8: {name} doesn't multiply float8 matrices, expected a GPU of compute capability {wanted} "
            "or newer",
            "use --matmul-dtype same: float8 weights are stored in one byte all the same",
        )
    return True


def _attention(name: str, device: torch.device, dtype: torch.dtype, begun: Mapping[str, Any]) -> str | None:
    if name == "auto" and device.type == "cpu":
        return None
    from avatarctl.networks.attention import best_attention, check_attention

    if name != "auto":
        return check_attention(name, device)
    if "attention" in begun:
        if begun["attention"] == "auto":  # torch chose by itself
            return None
        with contextlib.suppress(DeviceError):  # not there on this GPU: the difference is refused, with words
            return check_attention(begun["attention"], device)
    return best_attention(device, dtype, capability(device))


def _compile(
    settings: PlacementSettings, device: torch.device, work: Workload | None, begun: Mapping[str, Any]
) -> bool:
    if settings.compile != "auto":
        return settings.compile
    if device.type == "cpu":
        return False
    if "compile" in begun:
        return bool(begun["compile"])
    return work is not None and work.passes >= COMPILE_FROM_PASSES and can_compile()


def can_compile() -> bool:
    """Return whether what compiles for a GPU is there: Triton, and a C compiler for what it generates."""
    from torch.utils._triton import has_triton_package

    return has_triton_package() and any(shutil.which(name) for name in ("cc", "gcc", "clang"))


# -- Memory ---------------------------------------------------------------------------------------------------------


def _room(
    settings: PlacementSettings,
    decided: Placement,
    work: Workload | None,
    begun: Mapping[str, Any],
    room: Placement | None,
) -> tuple[str, Tiling | None, Fit | None]:
    """Return memory mode and tiles: as asked for, as a render began, else what fits this device."""
    tiles = settings.vae_tiling
    if work is None:
        return "full" if settings.memory == "auto" else settings.memory, None, None
    held: bool | Literal["auto"] | Tiling = tiles
    if "vae_tiling" in begun and (tiles == "auto" or (tiles and begun["vae_tiling"])):
        held = tiling_of(begun["vae_tiling"], work.width, work.height) or False
    if room is not None and (held == "auto" or (held or None) == room.tiling):
        return room.memory, room.tiling, None
    if decided.device.type == "cpu":
        tiling = held if isinstance(held, Tiling) else small_tiling(work.width, work.height) if held is True else None
        return "full" if settings.memory == "auto" else settings.memory, tiling, None
    modes: Any = settings.memory
    fit = choose(work, formats_of(decided), free_bytes(decided.device), modes, held)
    if decided.compile and settings.compile is True and fit.memory == "sequential":
        fit = choose(work, formats_of(decided), free_bytes(decided.device), "group", held)
    return fit.memory, fit.tiling, fit


def tiling_of(noted: bool | str, width: int, height: int) -> Tiling | None:
    """Return the tiles that a manifest notes: false, rows and columns, or true (tiles of 256 px, of older versions)."""
    if isinstance(noted, bool):
        return Tiling() if noted else None
    return tiling_named(noted, width, height)


def formats_of(placement: Placement) -> Formats:
    """Return the bytes of values in a placement."""
    return Formats(placement.dtype.itemsize, placement.vae_dtype.itemsize, placement.float8)


def free_bytes(device: torch.device) -> int:
    """Return the bytes that this process can still take on a GPU: what is free, and what its allocator holds unused."""
    gc.collect()
    free, _ = torch.cuda.mem_get_info(device)
    return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def step_down(placement: Placement, settings: PlacementSettings, work: Workload, stage: Stage) -> Placement | None:
    """Return the placement to continue with when memory ran out in ``stage`` all the same; None where nothing is left.

    The next one of the ladder that needs less in that stage: while decoding, first the transformer leaves the device, then
    the pictures are cut into tiles (unless the user said no tiles); else blocks, then layers of the transformer.
    """

    def needed(memory: str, tiling: Tiling | None) -> int:
        found = estimate_of(work, formats_of(placement), memory, tiling)
        return {"conditions": found.conditions, "sampling": found.sampling, "decoding": found.decode}[stage]

    tiles: Any = settings.vae_tiling if settings.vae_tiling == "auto" else placement.tiling or False
    now = needed(placement.memory, placement.tiling)
    steps = list(ladder(work.width, work.height, "auto", tiles))
    if placement.tiling is not None:
        steps = [(memory, tiling) for memory, tiling in steps if tiling is not None]
    for memory, tiling in steps:
        # A step that saves next to nothing only costs time.
        if needed(memory, tiling) < 0.9 * now and _below(memory, tiling, placement):
            if memory == "sequential" and settings.compile is True:
                continue
            return replace(
                placement, memory=memory, tiling=tiling, compile=placement.compile and memory != "sequential"
            )
    return None


def _below(memory: str, tiling: Tiling | None, placement: Placement) -> bool:
    """Return whether a step of the ladder never puts more on the device than the placement does."""
    return MODES.index(memory) >= MODES.index(placement.memory) and (tiling is not None or placement.tiling is None)
