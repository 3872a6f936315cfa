"""Calculate in which memory mode each preset fits in free memory, as --memory auto would choose it; nothing is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from avatarctl.checks.check import Check, gib
from avatarctl.errors import UsageError
from avatarctl.networks.dims import TRANSFORMER_1_3B
from avatarctl.networks.memory import MODES, Fit, Formats, Workload, choose, estimate_of
from avatarctl.networks.tiling import small_tiling
from avatarctl.settings import presets
from avatarctl.settings.check import make
from avatarctl.settings.render import AllSettings


def preset_settings() -> dict[str, AllSettings]:
    """Return the settings of every preset that loads and has no weights of its own."""
    found = {}
    for name in presets.names():
        try:
            settings = make(AllSettings, presets.load(name).values)
        except UsageError:
            continue  # `own_presets` reports it
        if settings.weights is None:
            found[name] = settings
    return found


def fit_of(settings: AllSettings, free: int, bfloat16: bool = True) -> Fit:
    """Return the memory mode and tiles that a preset gets on a GPU; ``bfloat16``: whether that computes in it."""
    auto_vae = 2 if bfloat16 else 4
    formats = Formats(
        4 if settings.dtype == "float32" else 2,
        {"float32": 4, "bfloat16": 2}.get(settings.vae_dtype, auto_vae),
        settings.weights_dtype == "float8",
    )
    return choose(_work(settings), formats, free, settings.memory, settings.vae_tiling)


def peak_on_cpu(settings: AllSettings) -> int:
    """Return the main memory that computing takes, where no weights move."""
    value_bytes = 4 if settings.dtype in ("auto", "float32") else 2
    formats = Formats(value_bytes, 2 if settings.vae_dtype == "bfloat16" else 4, settings.weights_dtype == "float8")
    tiling = small_tiling(*settings.size) if settings.vae_tiling is True else None
    return estimate_of(_work(settings), formats, "full", tiling).peak


def _work(settings: AllSettings) -> Workload:
    return Workload(TRANSFORMER_1_3B, *settings.size, settings.window)


def fit(gpus: Sequence[Mapping[str, Any]], free_main: int | None) -> Check:
    """Say which presets fit the GPU with the most free memory and how, or main memory where there is no GPU."""
    best = max((gpu for gpu in gpus if gpu["computes"]), key=lambda gpu: gpu["free_bytes"], default=None)
    if best is None and free_main is None:
        return Check("fits", "ok", "unknown: the free main memory can't be read on this system")
    settings = preset_settings()
    if not settings:
        return Check("fits", "warn", "no preset can be read", "avatarctl presets check")
    if best is None:
        return _in_main_memory({name: peak_on_cpu(each) for name, each in settings.items()}, int(free_main or 0))
    free = int(best["free_bytes"])
    where = f"--device cuda:{best['index']}" if best["index"] else "GPU 0"
    fits = {name: fit_of(each, free, bool(best.get("bfloat16", True))) for name, each in settings.items()}
    chosen = {name: each.memory if each.fits else None for name, each in fits.items()}
    peaks = {name: {each.memory: each.estimate.peak} for name, each in fits.items()}
    facts = {"where": where, "free_bytes": free, "peak_bytes": peaks, "memory": chosen}
    parts = []
    for mode in MODES:
        for tiled in (False, True):
            names = [name for name, each in fits.items() if chosen[name] == mode and (each.tiling is not None) == tiled]
            if names:
                parts.append(f"memory {mode}{' and tiles' if tiled else ''}: {', '.join(names)}")
    if lacking := [name for name, mode in chosen.items() if mode is None]:
        parts.append(f"too large: {', '.join(lacking)}")
    found = f"{gib(free)} free for {where}; {'; '.join(parts)}"
    if not any(chosen.values()):
        least = min(each.estimate.needed for each in fits.values())
        found = f"{found} (at least {gib(least)} needed)"
        return Check("fits", "fail", found, "end other programs that use it (nvidia-smi)", facts=facts)
    if lacking:
        return Check(
            "fits", "warn", found, f"avatarctl generate … --preset {next(n for n in chosen if chosen[n])}", facts=facts
        )
    return Check("fits", "ok", found, facts=facts)


def _in_main_memory(peaks: Mapping[str, int], free: int) -> Check:
    chosen = {name: "full" if peak <= free else None for name, peak in peaks.items()}
    facts = {
        "where": "the CPU",
        "free_bytes": free,
        "peak_bytes": {name: {"full": peak} for name, peak in peaks.items()},
        "memory": chosen,
    }
    found = (
        f"{gib(free)} free for the CPU; enough for {', '.join(name for name, mode in chosen.items() if mode) or 'none'}"
    )
    if not any(chosen.values()):
        found = f"{found}; too large: {', '.join(chosen)} (at least {gib(min(peaks.values()))} needed)"
        return Check("fits", "fail", found, "end other programs that use it", facts=facts)
    return Check("fits", "ok", found, facts=facts)
