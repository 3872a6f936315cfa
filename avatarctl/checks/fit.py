"""Calculate which presets fit in free memory, and in which memory mode; nothing is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from avatarctl.checks.check import Check, gib
from avatarctl.errors import UsageError
from avatarctl.networks.dims import TRANSFORMER_1_3B
from avatarctl.networks.memory import estimate
from avatarctl.settings import presets
from avatarctl.settings.check import make
from avatarctl.settings.render import AllSettings

# From fast to frugal.
MODES = ("full", "model", "group", "sequential")
TILE_PX = 256  # side of the VAE's tiles, as diffusers has it


def needs(on_gpu: bool) -> dict[str, dict[str, int]]:
    """Return preset -> memory mode -> peak bytes, from the preset's own mode on to the most frugal one.

    Presets that don't load, and those with weights of their own, are left out.
    """
    found = {}
    for name in presets.names():
        try:
            settings = make(AllSettings, presets.load(name).values)
        except UsageError:
            continue  # `own_presets` reports it
        if settings.weights is None:
            modes = MODES[MODES.index(settings.memory) :] if on_gpu else (settings.memory,)
            found[name] = {mode: _peak(settings, mode, on_gpu) for mode in modes}
    return found


def _peak(settings: AllSettings, mode: str, on_gpu: bool) -> int:
    whole = settings.dtype == "float32" or (settings.dtype == "auto" and not on_gpu)
    return estimate(
        TRANSFORMER_1_3B,
        *settings.size,
        settings.window,
        mode if on_gpu else "full",  # on the CPU nothing is saved by moving weights
        value_bytes=4 if whole else 2,
        float8=settings.weights_dtype == "float8",
        on_gpu=on_gpu,
        tile_px=TILE_PX if settings.vae_tiling else None,
    ).peak


def fit(gpus: Sequence[Mapping[str, Any]], free_main: int | None) -> Check:
    """Say which presets fit the GPU with the most free memory, or main memory where there is no GPU."""
    best = max((gpu for gpu in gpus if gpu["computes"]), key=lambda gpu: gpu["free_bytes"], default=None)
    if best is None and free_main is None:
        return Check("fits", "ok", "unknown: the free main memory can't be read on this system")
    free = best["free_bytes"] if best else int(free_main or 0)
    where = "the CPU" if best is None else f"--device cuda:{best['index']}" if best["index"] else "GPU 0"
    chosen: dict[str, str | None] = {}
    table = needs(on_gpu=best is not None)
    for name, modes in table.items():
        chosen[name] = next((mode for mode, peak in modes.items() if peak <= free), None)
    if not table:
        return Check("fits", "warn", "no preset can be read", "avatarctl presets check")
    facts = {"where": where, "free_bytes": free, "peak_bytes": table, "memory": chosen}
    by_mode = {mode: [name for name, found in chosen.items() if found == mode] for mode in (*MODES, None)}
    if best:
        parts = [f"--memory {mode}: {', '.join(names)}" for mode, names in by_mode.items() if mode and names]
    else:
        parts = [f"enough for {', '.join(name for name, mode in chosen.items() if mode) or 'none'}"]
    if by_mode[None] and (best or not any(chosen.values())):
        parts.append(f"too large: {', '.join(by_mode[None])}")
    found = f"{gib(free)} free for {where}; {'; '.join(parts)}"
    if not any(chosen.values()):
        least = min(min(modes.values()) for modes in table.values())
        return Check(
            "fits", "fail", f"{found} (at least {gib(least)} needed)", "end other programs that use it", facts=facts
        )
    frugal = [name for name, mode in chosen.items() if mode and mode != next(iter(table[name]))]
    if best and (frugal or by_mode[None]):
        example = f"--preset {frugal[0]} --memory {chosen[frugal[0]]}" if frugal else "--preset low-memory"
        return Check("fits", "warn", found, f"avatarctl generate … {example}", facts=facts)
    return Check("fits", "ok", found, facts=facts)
