"""Measure a device with the full-size network: speed, memory, equality; as a table and JSON.

Random weights made on the device; run from the project's root:

    python benchmarks/device.py --json device.json            # minutes on a GPU
    python benchmarks/device.py --tiny                        # seconds on a CPU: shows that every section runs

Sections (``--only``): passes, matmul, vae, memory, equality, video. JSON is written after each one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avatarctl.audio.speech import speech_states
from avatarctl.networks import flops, memory, vae
from avatarctl.networks.attention import usable_attention
from avatarctl.networks.dims import SpeechDims
from avatarctl.networks.kinds import build_speech_encoder, build_vae
from avatarctl.networks.placement import Placement
from avatarctl.networks.residency import residency_of
from avatarctl.render.timing import seconds, vae_seconds
from avatarctl.sampling.denoise import WindowRequest
from avatarctl.sampling.predict import Conditions, sample_latents
from avatarctl.sampling.windows import PER_LATENT, SAMPLE_RATE_HZ, Window, pictures_of, plan_windows, sample_of
from avatarctl.settings.render import RenderSettings
from benchmarks.bench import (
    FPS,
    IMAGE_TOKENS,
    MODES,
    OUT_OF_MEMORY,
    SPEECH_STATES,
    WINDOW,
    Bench,
    failure,
    predictor_of,
)
from benchmarks.common import flops_per_pass


@torch.no_grad()
def passes(bench: Bench) -> None:
    """Time a pass and a window step with attention backends; with the fastest one, compiled and stored in float8 too."""
    rows: list[dict[str, Any]] = []
    bench.figures["passes"] = rows
    # flex is made to be compiled: as it is, a pass takes twenty times as long.
    usable = ["native"] if bench.tiny else usable_attention(bench.device)
    backends = [name for name in usable if name != "flex"]
    # Compiling takes a minute: not at tiny size.
    ways = [(False, True)] if bench.tiny else [(True, False), (False, True), (True, True)]
    for size in bench.sizes:
        for attention in backends:
            rows.append(time_pass(bench, size, bench.placement(attention=attention)))
            bench.save()
        fastest = best_pass(bench, size, "window_step_s")
        best_attention = fastest["attention"] if fastest else None
        for compiled, float8 in ways:
            rows.append(
                time_pass(bench, size, bench.placement(attention=best_attention, compile=compiled, float8=float8))
            )


def time_pass(bench: Bench, size: tuple[int, int], placement: Placement) -> dict[str, Any]:
    """Time a pass, and a window step as a render takes it, of a freshly placed model."""
    row: dict[str, Any] = {
        "size": size,
        "attention": placement.attention or "auto",
        "compile": placement.compile,
        "float8": placement.float8,
    }
    try:
        row |= _timed(bench, size, placement)
    except (RuntimeError, ValueError) as error:  # memory is full, or a backend can't take these shapes
        row["pass_s"] = row["window_step_s"] = failure(error)
    bench.free()
    kind = f"{row['attention']:20s} compile={placement.compile!s:5} float8={placement.float8!s:5}"
    calculated = f" (calculated {row['calculated_pass_s']:.3f} s)" if "calculated_pass_s" in row else ""
    measured = f"{_s(row['pass_s'])} a pass{calculated}, {_s(row['window_step_s'])} a window step"
    print(f"  {size[0]}x{size[1]} {kind} {measured}")
    return row


def _timed(bench: Bench, size: tuple[int, int], placement: Placement) -> dict[str, Any]:
    inputs: dict[str, Any] = bench.inputs(size)
    tokens = memory.latent_tokens(bench.dims, *size, WINDOW)
    counted = flops.of_pass(
        bench.dims, tokens, bench.dims.text_len, IMAGE_TOKENS, SPEECH_STATES, WINDOW, compiled=placement.compile
    )
    model = residency_of(placement).place(bench.transformer())
    predict = predictor_of(model, inputs, placement)
    window = plan_windows(sample_of(pictures_of(WINDOW), FPS), FPS, WINDOW, 5).get(0)
    asked = [WindowRequest(window, 10, inputs["hidden_states"].float(), None)]
    measured = {"pass_s": bench.time(lambda: model(**inputs)), "window_step_s": bench.time(lambda: predict(asked))}
    return {**measured, "calculated_pass_s": seconds(counted, bench.rates(size))}


def _s(value: float | str) -> str:
    return f"{value:8.3f} s" if isinstance(value, float) else value


@torch.no_grad()
def matmul(bench: Bench) -> None:
    """Measure the matrix-product limit, and which share of it the fastest pass of each size reaches."""
    n = 256 if bench.tiny else 8192 if bench.device.type == "cuda" else 2048
    a, b = (torch.randn(n, n, device=bench.device, dtype=bench.dtype) for _ in range(2))
    seconds = bench.time(lambda: a @ b)
    limit = 2 * n**3 / seconds if isinstance(seconds, float) else 0.0
    shares = {}
    for size in bench.sizes:
        best = best_pass(bench, size, "pass_s")
        tokens = memory.latent_tokens(bench.dims, *size, WINDOW)
        flops = flops_per_pass(bench.dims, tokens, bench.dims.text_len, IMAGE_TOKENS, SPEECH_STATES)
        if best and limit:
            shares[f"{size[0]}x{size[1]}"] = flops / best["pass_s"] / limit
    bench.figures["matmul"] = {"side": n, "tflops": limit / 1e12, "share_of_limit": shares}
    print(f"  {limit / 1e12:.2f} TFLOP/s at {n}; " + ", ".join(f"{k}: {100 * v:.0f} %" for k, v in shares.items()))


def best_pass(bench: Bench, size: tuple[int, int], key: str) -> dict[str, Any] | None:
    """Return the fastest row of a size, if any was measured."""
    rows = [r for r in bench.figures.get("passes", []) if r["size"] == size and isinstance(r[key], float)]
    return min(rows, key=lambda row: row[key], default=None)


@torch.no_grad()
def vae_speed(bench: Bench) -> None:
    """Measure pictures per second of the streaming decoder and encoder, in the dtype that renders use on this device."""
    with bench.device:
        model = build_vae(bench.vae_dims).eval()
    model = residency_of(bench.placement(vae_dtype=bench.vae_dtype)).place(model.to(bench.vae_dtype))
    rows = bench.figures["vae"] = []
    frames = 3 if bench.tiny else 6
    pictures = pictures_of(frames)

    def decode(width: int, height: int) -> None:
        latents = torch.randn(1, bench.vae_dims.z_dim, frames, height // 8, width // 8, device=bench.device)
        for _ in vae.decode_stream(model, latents.split(1, dim=2)):
            pass

    def encode(width: int, height: int) -> None:
        vae.encode(model, torch.rand(1, 3, pictures, height, width, device=bench.device))

    for size in bench.sizes:
        row: dict[str, Any] = {"size": size}
        for name, work in (("decode", partial(decode, *size)), ("encode", partial(encode, *size))):
            took = bench.time(work)
            row[f"{name}_per_s"] = pictures / took if isinstance(took, float) else took
            count = flops.of_decoding if name == "decode" else flops.of_encoding
            one = count(bench.vae_dims, *size, value_bytes=bench.vae_dtype.itemsize)
            row[f"calculated_{name}_per_s"] = PER_LATENT / vae_seconds(one, bench.rates(size))
            bench.free()
        rows.append(row)
        told = {
            name: value if isinstance(value, str) else f"{value:.1f}" for name, value in row.items() if name != "size"
        }
        decoded = f"decode {told['decode_per_s']} (calculated {told['calculated_decode_per_s']}) pictures/s"
        encoded = f"encode {told['encode_per_s']} (calculated {told['calculated_encode_per_s']}) pictures/s"
        print(f"  {size[0]}x{size[1]}: {decoded}, {encoded}")


@torch.no_grad()
def peak_memory(bench: Bench) -> None:
    """Measure the peak of a render's work in every memory mode on a GPU, beside the calculation."""
    rows = bench.figures["memory"] = []
    value_bytes = bench.dtype.itemsize
    for size in bench.sizes[:1] if bench.tiny else bench.sizes:
        for mode, float8 in (*((mode, False) for mode in MODES), ("full", True)):
            # Of the CUDA context the allocator that is asked here knows nothing.
            calculated = memory.estimate(
                bench.dims,
                *size,
                WINDOW,
                mode,
                value_bytes,
                float8,
                on_gpu=False,
                vae_bytes=bench.vae_dtype.itemsize,
                decoder_width=bench.vae_dims.base_dim,
            )
            row: dict[str, Any] = {"size": size, "mode": mode, "float8": float8}
            row["calculated_gib"] = calculated.peak / 2**30
            try:
                placed = bench.placement(memory=mode, float8=float8, vae_dtype=bench.vae_dtype)
                row["measured_gib"] = measure_peak(bench, size, placed)
            except (RuntimeError, ValueError) as error:
                row["measured_gib"] = failure(error)
            bench.free()
            rows.append(row)
            got = row["measured_gib"] if isinstance(row["measured_gib"], str) else f"{row['measured_gib']:.2f} GiB"
            label = f"{size[0]}x{size[1]} {mode:10s} float8={float8!s:5}"
            print(f"  {label} calculated {row['calculated_gib']:.2f} GiB, measured {got}")


def measure_peak(bench: Bench, size: tuple[int, int], placement: Placement) -> float | str:
    """Hear, take a window step and decode, as a render does; return the peak of the device's memory in GiB.

    The calculation counts transformer, VAE and speech encoder, so all three are here.
    """
    residency = residency_of(placement)
    start = residency.load_device
    transformer = residency.place(bench.transformer().to(start))
    speech_dims = SpeechDims()
    if bench.tiny:
        speech_dims = speech_dims.with_(hidden_size=bench.dims.w2v, intermediate_size=64, num_hidden_layers=1)
        speech_dims = speech_dims.with_(num_attention_heads=2, conv_dim=(8,) * 7)
        speech_dims = speech_dims.with_(num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2)
    with start:
        decoder, encoder = build_vae(bench.vae_dims).eval(), build_speech_encoder(speech_dims).eval()
    decoder, encoder = residency.place(decoder.to(placement.vae_dtype)), residency.place(encoder)
    inputs: dict[str, Any] = bench.inputs(size)
    plan = plan_windows(sample_of(pictures_of(WINDOW), FPS), FPS, WINDOW, 5)
    window = plan.get(0)
    sound = torch.randn(window.last_sample - window.first_sample)

    def hear(_: Window) -> Tensor:
        states = speech_states(residency.use(encoder), sound).float()
        residency.use(transformer)
        return states

    bench.free()
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(bench.device)
    predict = predictor_of(residency.use(transformer), inputs, placement, hear)
    [(velocity, _)] = predict([WindowRequest(window, 10, inputs["hidden_states"].float(), None)])
    latents = velocity[:, :, :3].split(1, dim=2)  # the decoder is at its widest from the second latent frame on
    for _ in vae.decode_stream(residency.use(decoder), latents):
        pass
    if bench.device.type != "cuda":
        return "runs; not measured on the CPU"
    return torch.cuda.max_memory_allocated(bench.device) / 2**30


@torch.no_grad()
def equality(bench: Bench) -> None:
    """Compare wavefront with step order bit for bit, and one window per pass with two in a batch."""
    size, steps = bench.sizes[0], 3
    model = bench.transformer()
    inputs = bench.inputs(size)
    plan = plan_windows(sample_of(PER_LATENT * (WINDOW + 16) + 1, FPS), FPS, WINDOW, 5)
    states = inputs["audio_states"].float().cpu()
    conditions = Conditions(
        inputs["encoder_hidden_states"],
        inputs["encoder_hidden_states"].flip(1),
        inputs["encoder_hidden_states_image"],
        inputs["condition"],
        lambda window: states.roll(window.index, 1),
    )
    both = [
        sample_latents(model, conditions, plan, RenderSettings(size=size, steps=steps, order=kind))
        for kind in ("steps", "wavefront")
    ]
    two = bench.inputs(size, batch=2)
    for name in ("hidden_states", "audio_states"):
        two[name][1] = two[name][1].flip(0)
    batched = model(**two).sample
    single = torch.cat([model(**{k: v[i : i + 1] for k, v in two.items()}).sample for i in range(2)])
    difference = (batched.float() - single.float()).abs().max().item()
    bench.figures["equality"] = {
        "windows": plan.count,
        "steps": steps,
        "wavefront_equals_steps": torch.equal(*both),
        "batch_of_two_largest_difference": difference,
        "largest_value": single.abs().max().item(),
    }
    print(f"  wavefront equals step order: {torch.equal(*both)}; batch of two differs by {difference:.2e}")


def video(bench: Bench) -> None:
    """Estimate the seconds of sampling per second of video (50 steps, overlap 5) from the fastest window step measured."""
    rows = bench.figures["video"] = []
    video_s, steps = 600, 50
    plan = plan_windows(SAMPLE_RATE_HZ * video_s, FPS, WINDOW, 5)
    for size in bench.sizes:
        best = best_pass(bench, size, "window_step_s")
        took = None if best is None else best["window_step_s"] * plan.count * steps / video_s
        rows.append({"size": size, "window_steps_per_second": plan.count * steps / video_s})
        rows[-1] |= {"seconds_per_second": took, "from": best}
        print(f"  {size[0]}x{size[1]}: {'not measured' if took is None else f'{took:.1f} s per second of video'}")


SECTIONS: dict[str, Callable[[Bench], None]] = {
    "passes": passes,
    "matmul": matmul,
    "vae": vae_speed,
    "memory": peak_memory,
    "equality": equality,
    "video": video,
}


def run(bench: Bench, only: list[str]) -> dict[str, Any]:
    """Run the sections, saving after each; one that runs out of memory says so and the next begins."""
    for name in only:
        print(name)
        begin = time.perf_counter()
        try:
            SECTIONS[name](bench)
        except torch.OutOfMemoryError:
            bench.figures[name] = OUT_OF_MEMORY
            print(f"  {OUT_OF_MEMORY}")
        bench.free()
        bench.figures.setdefault("section_s", {})[name] = round(time.perf_counter() - begin, 1)
        bench.save()
    return bench.figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--minutes", type=float, default=8.0, help="about how long the timed runs may take together")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    minutes = 0.02 if arguments.tiny else arguments.minutes
    run(Bench(torch.device(arguments.device), arguments.tiny, minutes, arguments.json), arguments.only)


if __name__ == "__main__":
    main()
