"""Measure the seconds of one window step (three guidance passes) and which part they go to.

Random weights, full width by default. Run from the project's root:

    python benchmarks/window_step.py --size 128x128 --json window_step.json
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from avatarctl.networks.dims import TRANSFORMER_1_3B, TransformerDims
from avatarctl.networks.kinds import build_transformer
from avatarctl.networks.memory import latent_tokens, transformer_parameters
from avatarctl.networks.transformer import StableAvatarTransformer3DModel

PARTS = ("adapter", "self-attention", "cross-attention", "feed-forward", "rest")


def now(device: torch.device) -> float:
    """Return the time in seconds after everything queued on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def random_transformer(
    dims: TransformerDims, dtype: torch.dtype, device: torch.device
) -> StableAvatarTransformer3DModel:
    """Build a transformer with random weights directly on the device."""
    torch.manual_seed(0)
    with device:
        model = build_transformer(dims).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        # As loaded checkpoints are: time embedding, modulation and norms stay in float32.
        if not any(piece in name.split(".") for piece in model._keep_in_fp32_modules):
            parameter.data = parameter.data.to(dtype)
    return model


def random_inputs(
    dims: TransformerDims, width: int, height: int, window: int, dtype: torch.dtype, device: torch.device
) -> dict[str, torch.Tensor]:
    """Return the arguments of one pass over a window of ``window`` latent frames."""
    generator = torch.Generator(device).manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=device).to(dtype)

    speech_states = (4 * (window - 1) + 1) * 2 - 1  # wav2vec 2.0: 50 a second, at 25 pictures a second
    return {
        "hidden_states": draw(1, dims.out_dim, window, height // 8, width // 8),
        "timestep": torch.full((1,), 500.0, device=device),
        "encoder_hidden_states": draw(1, dims.text_len, dims.text),
        "encoder_hidden_states_image": draw(1, 257, dims.clip),
        "condition": draw(1, dims.in_dim - dims.out_dim, window, height // 8, width // 8),
        "audio_states": draw(1, speech_states, dims.w2v),
    }


def time_parts(model: StableAvatarTransformer3DModel, inputs: dict[str, Any], device: torch.device) -> dict[str, float]:
    """Run the three passes of one window step (two with the adapter's tokens, one without), give seconds per part."""
    spent: dict[str, float] = defaultdict(float)
    handles = []

    def watch(module: Any, part: str) -> None:
        started: list[float] = []
        handles.append(module.register_forward_pre_hook(lambda *_: started.append(now(device))))

        def stop(*_: Any) -> None:
            spent[part] += now(device) - started.pop()

        handles.append(module.register_forward_hook(stop))

    watch(model.vocal_projector, "adapter")
    for block in model.blocks:
        watch(block.attn1, "self-attention")
        watch(block.attn2, "cross-attention")
        watch(block.ffn, "feed-forward")
    begin = now(device)
    with torch.inference_mode():
        tokens = model(**inputs).audio_tokens
        model(**{**inputs, "audio_states": None, "audio_tokens": tokens})
        model(**{**inputs, "audio_states": None})
    total = now(device) - begin
    for handle in handles:
        handle.remove()
    return {**{part: spent[part] for part in PARTS[:-1]}, "rest": total - sum(spent.values()), "total": total}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="128x128", help="width x height in pixels")
    parser.add_argument("--window", type=int, default=21, help="latent frames")
    parser.add_argument("--dim", type=int, default=TRANSFORMER_1_3B.dim)
    parser.add_argument("--layers", type=int, default=TRANSFORMER_1_3B.layers)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="", choices=["", "float32", "bfloat16"])
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    name = arguments.dtype or ("bfloat16" if device.type == "cuda" else "float32")
    width, height = map(int, arguments.size.split("x"))
    full = TRANSFORMER_1_3B
    dims = full.with_(
        dim=arguments.dim,
        heads=max(arguments.dim // 128, 1),
        layers=arguments.layers,
        ffn=full.ffn * arguments.dim // full.dim // 8 * 8,
    )
    model = random_transformer(dims, getattr(torch, name), device)
    inputs = random_inputs(dims, width, height, arguments.window, getattr(torch, name), device)
    with torch.inference_mode():
        model(**inputs)  # warm-up
    seconds = time_parts(model, inputs, device)
    result = {
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads",
        "dtype": name,
        "size": arguments.size,
        "window": arguments.window,
        "tokens": latent_tokens(dims, width, height, arguments.window),
        "parameters": transformer_parameters(dims),
        "torch": torch.__version__,
        "seconds": seconds,
    }
    print(
        f"{result['device']}, {name}, {arguments.size}, {result['tokens']} tokens, {result['parameters'] / 1e6:.1f} M parameters"
    )
    for part in PARTS:
        print(f"  {part:16s} {seconds[part]:8.3f} s  {100 * seconds[part] / seconds['total']:5.1f} %")
    print(f"  {'window step':16s} {seconds['total']:8.3f} s")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
