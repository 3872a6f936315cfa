"""Measure sampling with 1, 2, 4 … windows per pass as ratios to one, and how far results differ.

Random weights made on the device; run from the project's root:

    python benchmarks/window_batch.py                          # small networks: what the embedded avatar has
    python benchmarks/window_batch.py --full --size 512x512    # the 1.3B network on a GPU
"""

from __future__ import annotations

import argparse
from fractions import Fraction

import torch

from avatarctl.networks.dims import TRANSFORMER_1_3B, TransformerDims
from avatarctl.sampling.predict import Conditions, make_sampler
from avatarctl.sampling.windows import Plan, pictures_of
from avatarctl.settings.render import RenderSettings
from avatarctl.settings.values import parse_size
from benchmarks.window_step import now, random_inputs, random_transformer

SMALL = TransformerDims(dim=128, heads=4, layers=6, ffn=512, text=64, text_len=64, clip=64, w2v=64, freq_dim=64)
WINDOW = 21


@torch.no_grad()
def main() -> None:
    """Sample the same windows with every batch, the first time left out, the fastest of three kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the 1.3B network")
    parser.add_argument("--size", default="64x64")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4])
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    dims = TRANSFORMER_1_3B if arguments.full else SMALL
    width, height = parse_size(arguments.size) if arguments.full else (64, 64)
    model = random_transformer(dims, dtype, device)
    inputs = random_inputs(dims, width, height, WINDOW, dtype, device)
    states = inputs["audio_states"].float().cpu()
    conditions = Conditions(
        inputs["encoder_hidden_states"],
        inputs["encoder_hidden_states"].flip(1),
        inputs["encoder_hidden_states_image"],
        inputs["condition"].float(),
        lambda window: states.roll(window.index, 1),
    )
    frames = WINDOW + 12 * (WINDOW - 5)
    plan = Plan(pictures_of(frames), Fraction(25), frames, WINDOW, 5)
    settings = RenderSettings(steps=arguments.steps)
    seconds: dict[int, float] = {}
    first: torch.Tensor | None = None
    for batch in arguments.batches:
        times = []
        for _ in range(3):
            began = now(device)
            sampler, _ = make_sampler(model, conditions, plan, settings, batch=batch)
            latents = torch.cat([final.latents for finals in sampler.run() for final in finals], dim=2)
            times.append(now(device) - began)
        seconds[batch] = min(times)
        first = latents if first is None else first
        difference = float((latents - first).abs().max() / first.abs().max())
        share = seconds[batch] / seconds[arguments.batches[0]]
        print(
            f"{batch} windows per pass: {share:.2f} of the time of one, largest difference {difference:.1e}", flush=True
        )


if __name__ == "__main__":
    main()
