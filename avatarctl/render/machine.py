"""The machine that an estimate is for: this one, measured in two seconds and remembered, or a published GPU."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from avatarctl import durable, threads
from avatarctl.networks import devices
from avatarctl.networks.cards import Card, Rates
from avatarctl.networks.memory import Fit, Formats, Workload, choose, estimate_of
from avatarctl.networks.tiling import Tiling
from avatarctl.paths import cache_folder
from avatarctl.settings.placement import PlacementSettings

FILE = "rates.json"
MEASURED = 2  # what is measured: 2 has the bus too
TIMEOUT_S = 120.0  # a cold disk takes half a minute to import torch
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Machine:
    """A device by name: what it reaches, in which formats a render computes there, and how it is placed."""

    name: str
    basis: str
    rates: Rates
    formats: Formats
    compiled: bool
    fit: Fit | None = None
    memory: str = "full"


def of_card(card: Card, settings: PlacementSettings, work: Workload, compile_from: int) -> Machine:
    """Return a published GPU as the machine of a render; raises what it can't do."""
    if settings.matmul_dtype == "float8":
        devices.refuse_float8_matmul(settings.weights_dtype, card.capability, f"the {card.name}")
    dtype = settings.dtype if settings.dtype != "auto" else "bfloat16" if card.bfloat16 else "float16"
    vae = settings.vae_dtype if settings.vae_dtype != "auto" else "bfloat16" if card.bfloat16 else "float32"
    formats = Formats(BYTES[dtype], BYTES[vae], settings.weights_dtype == "float8")
    fit = choose(work, formats, card.free_bytes, settings.memory, settings.vae_tiling)
    compiled = settings.compile if settings.compile != "auto" else work.passes >= compile_from
    basis = f"calculated from published figures of the {card.name}"
    return Machine(card.name, basis, card.rates, formats, compiled and fit.memory != "sequential", fit, fit.memory)


def this_machine(settings: PlacementSettings, work: Workload) -> Machine | None:
    """Return this machine as a render would use it; None where torch can't tell.

    Torch is asked in a process of its own: a broken one breaks nothing here. The first time it measures, which takes a few
    seconds; a machine without a GPU is not asked again.
    """
    on_cpu = settings.device == "cpu" or not devices.torch_has_gpus()
    key, known = _key(settings, work, on_cpu), _read()
    if on_cpu and key in known:
        return _machine_of(known[key], work)
    rates = known.get(key, {}).get("rates")
    asked = {"settings": settings.model_dump(mode="json"), "work": asdict(work), "rates": rates}
    found = _ask(asked)
    if found is None:
        return None
    if rates is None:
        _write({**known, key: found})
    return _machine_of(found, work)


class Here:
    """This machine as many estimates at once see it: asked once for each kind of render, by whichever thread comes first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[tuple[str, bool], Machine | None] = {}

    def machine(self, settings: PlacementSettings, work: Workload) -> Machine | None:
        """Return what :func:`this_machine` returned for a render of this kind."""
        kind = _key(settings, work, settings.device == "cpu"), work.passes >= devices.COMPILE_FROM_PASSES
        with self._lock:
            if kind not in self._found:
                self._found[kind] = this_machine(settings, work)
            return self._found[kind]


def _machine_of(found: dict[str, Any], work: Workload) -> Machine:
    formats = Formats(**found["formats"])
    tiling = None if found["tiling"] is None else Tiling(*found["tiling"])
    fit = None
    if found["free_bytes"] is not None:
        fit = Fit(found["memory"], tiling, estimate_of(work, formats, found["memory"], tiling), found["free_bytes"])
    basis = f"calculated from what {found['name']} reaches"
    rates = Rates(**found["rates"])
    return Machine(found["name"], basis, rates, formats, found["compiled"], fit, found["memory"])


def _key(settings: PlacementSettings, work: Workload, on_cpu: bool) -> str:
    """Return what measured rates are remembered by."""
    dims = [*asdict(work.dims).values(), work.width, work.height, work.window, work.decoder_width]
    visible = "" if on_cpu else os.environ.get("CUDA_VISIBLE_DEVICES", "")
    device = "cpu" if on_cpu else settings.device
    number_formats = (settings.dtype, settings.vae_dtype, settings.weights_dtype, settings.memory, settings.vae_tiling)
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        version = ""
    where = (platform.node(), platform.machine(), version, threads.count())
    return json.dumps([MEASURED, *where, device, visible, settings.compile, *number_formats, dims])


def _ask(asked: dict[str, Any]) -> dict[str, Any] | None:
    """Let a process with torch place and measure; None where it fails."""
    root = str(Path(__file__).parents[2])
    search = os.pathsep.join(part for part in (os.environ.get("PYTHONPATH"), root) if part)
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "avatarctl.networks.reach"],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            env={**os.environ, "PYTHONPATH": search},
            check=True,
        )
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None
    return found


def _read() -> dict[str, Any]:
    try:
        content = json.loads((cache_folder() / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write(known: dict[str, Any]) -> None:
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        durable.replace(folder / FILE, json.dumps(known).encode())
    except OSError:
        return  # it is measured again
