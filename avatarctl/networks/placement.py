"""Decide where and how the networks compute from the settings and this machine; refuse what can't work."""

from __future__ import annotations

import contextlib
import shutil
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

from avatarctl.errors import DeviceError, UsageError
from avatarctl.networks.devices import COMPILE_FROM_PASSES, refuse_float8_matmul
from avatarctl.networks.memory import MODES, Fit, Formats, Workload, choose, estimate_of
from avatarctl.networks.tiling import Tiling, small_tiling, tiling_named, tilings
from avatarctl.settings.placement import PlacementSettings

Role = Literal["transformer", "vae", "text encoder", "image encoder", "speech encoder"]
Stage = Literal["conditions", "sampling", "decoding", "trial"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
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
    vae_dtype: torch.dtype = torch.float32
    tiling: Tiling | None = None
    float8_matmul: bool = False
    attention_asked: bool = False  # by the user: another one never stands for it
    beside: bool = True  # memory mode full: pictures may be decoded while the next passes run
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
    device = device_named(settings.device)
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
    if settings.matmul_dtype == "float8":
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
        refuse_float8_matmul(settings.weights_dtype, capability(device), name)
    decided = Placement(
        device,
        dtype,
        "full",
        float8,
        _attention(settings.attention, device, dtype, begun),
        _compile(settings, device, work, begun),
        _vae_dtype(settings.vae_dtype, device, begun),
        float8_matmul=settings.matmul_dtype == "float8",
        attention_asked=settings.attention != "auto",
    )
    if (
        device.type == "cuda"
    ):  # torch would round what convolutions of float32 multiply to ten bits, the speech encoder's too
        torch.backends.cudnn.allow_tf32 = False
    memory, tiling, fit = _room(settings, decided, work, begun, room)
    beside = room.beside if room is not None and fit is None else fit is None or fit.beside
    compiled = decided.compile and memory != "sequential"
    return replace(decided, memory=memory, tiling=tiling, beside=beside, fit=fit, compile=compiled)


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
    free, _ = torch.cuda.mem_get_info(device)
    return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def step_down(placement: Placement, settings: PlacementSettings, work: Workload, stage: Stage) -> Placement | None:
    """Return the placement to continue with when memory ran out in ``stage`` all the same; None where nothing is left.

    While decoding or making conditions, first the transformer leaves the device, then pictures are cut into tiles (unless the
    user said no tiles), then its blocks leave and its layers; while sampling, these. Before all that, pictures are decoded
    in turn with passes instead of beside them. ``trial``: a decode before the first pass.
    """
    if stage in ("sampling", "decoding") and placement.memory == "full" and placement.beside:
        return replace(placement, beside=False)

    def needed(memory: str, tiling: Tiling | None) -> int:
        found = estimate_of(work, formats_of(placement), memory, tiling)
        sizes = {"conditions": found.conditions, "sampling": found.sampling}
        return sizes.get(stage, found.decode)

    now = needed(placement.memory, placement.tiling)
    for memory, tiling in _steps(placement, settings, work, stage):
        # A step that saves next to nothing only costs time.
        if needed(memory, tiling) < 0.9 * now and not (memory == "sequential" and settings.compile is True):
            compiled = placement.compile and memory != "sequential"
            return replace(placement, memory=memory, tiling=tiling, compile=compiled)
    return None


def _steps(
    placement: Placement, settings: PlacementSettings, work: Workload, stage: Stage
) -> Iterator[tuple[str, Tiling | None]]:
    """Return what is below a placement, in the order in which it is tried."""
    below = MODES[MODES.index(placement.memory) + 1 :]
    if stage == "sampling":
        yield from ((memory, placement.tiling) for memory in below)
        return
    least = placement.memory if placement.memory != "full" else "model"
    yield least, placement.tiling
    now = work.width * work.height if placement.tiling is None else placement.tiling.pixels(work.width, work.height)
    smaller = [each for each in tilings(work.width, work.height) if each.pixels(work.width, work.height) < now]
    finer: list[Tiling | None] = list(smaller) if settings.vae_tiling is not False else []
    yield from ((least, tiling) for tiling in finer)
    yield from ((memory, tiling) for memory in below for tiling in (placement.tiling, *finer))
