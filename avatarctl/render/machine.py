"""The machine that an estimate is for: this one, measured in two seconds and remembered, or a published GPU."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from avatarctl import durable, threads
from avatarctl.networks import devices
from avatarctl.networks.cards import Card, Rates
from avatarctl.networks.memory import Fit, Formats, Workload, choose
from avatarctl.paths import cache_folder
from avatarctl.settings.placement import PlacementSettings

FILE = "rates.json"
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


def this_machine(settings: PlacementSettings, work: Workload) -> Machine:
    """Return this machine as a render would use it; raises what placing the render would raise.

    The first time it is measured, which takes a few seconds.
    """
    on_cpu = settings.device == "cpu" or not devices.torch_has_gpus()
    import torch

    from avatarctl.networks.placement import decide, formats_of

    if on_cpu and settings.device == "auto":
        settings = settings.model_copy(update={"device": "cpu"})
    placement = decide(settings, work)
    device = placement.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "this CPU"
    key = json.dumps(
        [
            torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability(),
            torch.__version__,
            threads.count() if device.type == "cpu" else 0,
            str(placement.dtype),
            str(placement.vae_dtype),
            [*asdict(work.dims).values(), work.width, work.height, work.window, work.decoder_width],
        ]
    )
    known = _read()
    if key not in known:
        from avatarctl.networks.reach import measure

        known[key] = asdict(measure(device, placement.dtype, placement.vae_dtype, work))
        _write(known)
    rates = Rates(**known[key])
    basis = f"calculated from what {name} reaches"
    return Machine(name, basis, rates, formats_of(placement), placement.compile, placement.fit, placement.memory)


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
