"""Place a render and measure in two seconds what its device reaches: products, attention, convolutions, moves, calls, its bus.

Run as a program (``python -m avatarctl.networks.reach``) it reads settings and a workload from stdin and writes what it found.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict

import torch
from torch.nn import functional

from avatarctl.networks.cards import Rates
from avatarctl.networks.dims import TransformerDims
from avatarctl.networks.memory import Workload, latent_tokens
from avatarctl.networks.placement import decide, formats_of
from avatarctl.settings.placement import PlacementSettings

SECONDS = 0.25  # for each kind
LARGEST_BYTES = 1 << 26  # that the measured move reads


def measure(device: torch.device, dtype: torch.dtype, vae_dtype: torch.dtype, work: Workload) -> Rates:
    """Return what a device reaches with the shapes of a render, or with shorter ones where those take too long."""
    dims, tokens = work.dims, latent_tokens(work.dims, work.width, work.height, work.window)
    width = dims.dim // dims.heads

    def product(rows: int) -> tuple[Callable[[], object], float]:
        x, weight = _random(device, dtype, rows, dims.dim), _random(device, dtype, dims.ffn, dims.dim)
        return lambda: functional.linear(x, weight), 2.0 * rows * dims.dim * dims.ffn

    def attention(rows: int) -> tuple[Callable[[], object], float]:
        q = _random(device, dtype, 1, dims.heads, rows, width)
        return lambda: functional.scaled_dot_product_attention(q, q, q), 4.0 * rows * rows * dims.dim

    channels = 2 * work.decoder_width

    def convolution(side: int) -> tuple[Callable[[], object], float]:
        x = _random(device, vae_dtype, 1, channels, 4, side, side)
        weight = _random(device, vae_dtype, channels, channels, 3, 3, 3)
        return lambda: functional.conv3d(x, weight), 2.0 * channels * channels * 27 * 2 * (side - 2) ** 2

    def move(values: int) -> tuple[Callable[[], object], float]:
        x = _random(device, torch.float32, values)
        out = torch.empty_like(x)
        return lambda: torch.mul(x, 2.0, out=out), 8.0 * values

    def call(_: int) -> tuple[Callable[[], object], float]:
        x = _random(device, dtype, 16)
        return lambda: x.add_(1), 1.0

    def from_memory(count: int) -> tuple[Callable[[], object], float]:
        x = torch.empty(count, dtype=torch.uint8, pin_memory=True)
        return lambda: x.to(device, non_blocking=True), float(count)

    with torch.no_grad():
        side = min(work.width, work.height) // 2
        return Rates(
            _rate(device, product, tokens),
            _rate(device, attention, tokens),
            _rate(device, convolution, max(side, 8)),
            _rate(device, move, LARGEST_BYTES // 4),
            1 / _rate(device, call, 1),
            overlaps=device.type == "cuda",
            link=_rate(device, from_memory, LARGEST_BYTES) if device.type == "cuda" else 0.0,
        )


def _random(device: torch.device, dtype: torch.dtype, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, device=device).to(dtype)


def _rate(device: torch.device, make: Callable[[int], tuple[Callable[[], object], float]], largest: int) -> float:
    """Return operations per second; the size grows until a run takes a fair time, or is the render's own."""
    size = min(largest, 16)
    while True:
        run, operations = make(size)
        run()  # what is prepared once
        seconds = _time(device, run, 1)
        if size >= largest or seconds > SECONDS / 8:
            break
        size = min(4 * size, largest)
    runs = max(1, min(int(SECONDS / max(seconds, 1e-6)), 2000))
    return operations * runs / _time(device, run, runs)


def _time(device: torch.device, run: Callable[[], object], runs: int) -> float:
    began = time.perf_counter()
    for _ in range(runs):
        run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return max(time.perf_counter() - began, 1e-9)


def main() -> None:
    """Answer in one line of JSON."""
    asked = json.loads(sys.stdin.read())
    settings = PlacementSettings.model_validate(asked["settings"])
    work = Workload(**{**asked["work"], "dims": TransformerDims.parse(asked["work"]["dims"])})
    warnings.simplefilter("ignore")
    placement = decide(settings, work)
    on_gpu = placement.device.type == "cuda"
    rates = asked["rates"]
    if rates is None:
        rates = asdict(measure(placement.device, placement.dtype, placement.vae_dtype, work))
    tiling = placement.tiling
    found = {
        "name": torch.cuda.get_device_name(placement.device) if on_gpu else "this CPU",
        "formats": asdict(formats_of(placement)),
        "compiled": placement.compile,
        "memory": placement.memory,
        "tiling": None if tiling is None else [tiling.size_px, tiling.overlap_px, tiling.width_px],
        "free_bytes": placement.fit.free_bytes if placement.fit is not None else None,
        "rates": rates,
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
