"""Measure seconds and peak memory of a training step of the full-size network beside the calculated memory.

Random weights made on the device; run from the project's root:

    python benchmarks/train_step.py --json train.json          # a minute or two on a GPU
    python benchmarks/train_step.py --tiny                     # seconds on a CPU: shows that it runs
"""

from __future__ import annotations

import argparse
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from avatarctl.networks.attach import attach
from avatarctl.networks.dims import TRANSFORMER_1_3B, TransformerDims
from avatarctl.settings.presets import load
from avatarctl.settings.train import TrainSettings
from avatarctl.training.draws import draw
from avatarctl.training.loss import Batch, flow_loss
from avatarctl.training.memory import estimate
from avatarctl.training.model import place_model
from avatarctl.training.optimizer import make_optimizer
from benchmarks.bench import IMAGE_TOKENS, SIZES, SPEECH_STATES, TINY_DIMS, WINDOW
from benchmarks.window_step import now, random_transformer

PRESETS = (("person-1.3b", "lora"), ("full-1.3b", "train"))


def random_batch(dims: TransformerDims, width: int, height: int, window: int, device: torch.device) -> Batch:
    """Return a sample of noise at this size."""
    generator = torch.Generator(device).manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    space = (window, height // 8, width // 8)
    ones = torch.ones(1, *space, device=device)
    return Batch(
        keys=("noise-0",),
        latents=noise(1, dims.out_dim, *space),
        condition=noise(1, dims.in_dim - dims.out_dim, *space),
        image_tokens=noise(1, IMAGE_TOKENS, dims.clip),
        text=noise(1, min(20, dims.text_len), dims.text),
        null_text=noise(min(20, dims.text_len), dims.text),
        speech=noise(1, SPEECH_STATES, dims.w2v),
        face=ones,
        lips=ones,
        valid=torch.ones(1, window, device=device),
    )


def measure(
    preset: tuple[str, str], size: tuple[int, int], dims: TransformerDims, device: torch.device, steps: int
) -> dict[str, Any]:
    """Run a few training steps; give seconds per step (the first left out), peak and calculated memory."""
    settings = TrainSettings(**load(*preset).values)
    gpu = device.type == "cuda"
    model = random_transformer(dims, torch.float32, device)
    attach(model, settings.modes, settings.rank, settings.alpha, settings.dropout)
    model.train().enable_gradient_checkpointing()
    place_model(model, settings, torch.bfloat16, whole=False)
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    optimizer = make_optimizer(trained, settings)
    window = WINDOW if gpu else 3
    batch = random_batch(dims, *size, window, device)
    if gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    times = []
    for step in range(steps):
        began = now(device)
        draws = draw(settings, batch.latents.shape, [(0, step, 0)]).to(device)
        waiting: Any = nullcontext()
        if settings.offload_activations:
            waiting = torch.autograd.graph.save_on_cpu(pin_memory=gpu)
        with torch.autocast(device.type, torch.bfloat16), waiting:
            loss, _ = flow_loss(model, batch, draws, settings)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([parameter for _, parameter in trained], settings.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        times.append(now(device) - began)
    calculated = estimate(dims, *size, window, settings, narrow=True, on_gpu=gpu)
    return {
        "preset": preset[0],
        "size": list(size),
        "frames": 4 * window - 3,
        "step_s": round(sum(times[1:]) / len(times[1:]), 3),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if gpu else "not measured on the CPU",
        "calculated_gib": round(calculated.peak / 2**30, 2),
        "loss": float(loss.detach()),
    }


def main() -> None:
    """Measure every preset at every size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to show that it runs")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    dims, sizes = (TINY_DIMS, ((64, 64),)) if arguments.tiny else (TRANSFORMER_1_3B, SIZES)
    rows = []
    for preset in PRESETS:
        for size in sizes:
            row = measure(preset, size, dims, device, arguments.steps)
            rows.append(row)
            print(row, flush=True)
    if arguments.json:
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
        arguments.json.write_text(json.dumps({"device": name, "torch": torch.__version__, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
