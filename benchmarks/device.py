"""Takes whatever device is there, gives its figures for the full-size network: speed, memory, equality; as a table and JSON.

Random weights made on the device; run from the project's root:

    python benchmarks/device.py --json device.json            # minutes on a GPU
    python benchmarks/device.py --tiny                        # seconds on a CPU: shows that every section runs

Sections (``--only``): passes, matmul, vae, memory, equality, video. JSON is written after each one.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avatarctl.networks import memory, vae
from avatarctl.networks.audio_adapter import frame_spans
from avatarctl.networks.dims import TRANSFORMER_1_3B, WAN_VAE, TransformerDims
from avatarctl.networks.kinds import build_vae
from avatarctl.networks.placement import Placement, Residents, place, usable_attention
from avatarctl.sampling.predict import Conditions, sample_latents
from avatarctl.sampling.windows import PER_LATENT, plan_windows, sample_of
from avatarctl.settings import RenderSettings
from benchmarks.window_step import now, random_inputs, random_transformer

SIZES = ((512, 512), (480, 832))
WINDOW = 21
TINY_DIMS = TransformerDims(dim=128, heads=2, layers=2, ffn=256, text=64, text_len=16, clip=32, w2v=32, freq_dim=32)
MODES = ("full", "model", "group", "sequential")
OUT_OF_MEMORY = "out of memory"


class Bench:
    """What is measured and where: the device, the sizes, and the figures so far."""

    def __init__(self, device: torch.device, tiny: bool, minutes: float, target: Path | None) -> None:
        self.device, self.tiny, self.target = device, tiny, target
        self.dims = TINY_DIMS if tiny else TRANSFORMER_1_3B
        self.sizes = ((64, 64), (64, 96)) if tiny else SIZES
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.vae_dims = WAN_VAE.with_(base_dim=8 if tiny else WAN_VAE.base_dim)
        self.seconds_per_row = minutes * 60 / 60
        self.figures: dict[str, Any] = {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
            "torch": torch.__version__,
            "dtype": str(self.dtype),
            "parameters": memory.transformer_parameters(self.dims),
            "tiny": tiny,
        }

    def time(self, work: Callable[[], object]) -> float | str:
        """Give the median seconds of some runs after a warm-up, or say that memory ran out."""
        try:
            work()
            runs: list[float] = []
            while len(runs) < 3 or (sum(runs) < self.seconds_per_row and len(runs) < 20):
                begin = now(self.device)
                work()
                runs.append(now(self.device) - begin)
                if sum(runs) > 10 * self.seconds_per_row:
                    break
            return sorted(runs)[len(runs) // 2]
        except torch.OutOfMemoryError:
            return OUT_OF_MEMORY
        finally:
            self.free()

    def free(self) -> None:
        """Give memory back to the device."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def save(self) -> None:
        """Write the figures so far."""
        if self.target:
            self.target.write_text(json.dumps(self.figures, indent=2) + "\n", encoding="utf-8")

    def placement(self, **changes: Any) -> Placement:
        """Give a placement on this device."""
        fields = {"memory": "full", "float8": False, "attention": None, "compile": False, **changes}
        return Placement(self.device, self.dtype, **fields)

    def inputs(self, size: tuple[int, int], batch: int = 1) -> dict[str, Tensor]:
        """Give the arguments of a pass."""
        made = random_inputs(self.dims, *size, WINDOW, self.dtype, self.device)
        return {name: value.repeat(batch, *[1] * (value.ndim - 1)) for name, value in made.items()}


def flops_per_pass(dims: TransformerDims, tokens: int, audio_states: int, window: int = WINDOW) -> int:
    """Count the multiply-adds of one pass times two, in matrix products and attention (norms and the like left out).

    Per block: self-attention (four projections, two products with L x L), cross-attention (two projections of the tokens,
    text, image and audio keys and values, and attention to them), feed-forward. Adapter and embedders once.
    """
    d, frames = dims.dim, window
    start, stop = frame_spans(audio_states, window)[0]
    heard = stop - start + 1  # audio tokens per latent frame
    text, image, audio = dims.text_len, 257, frames * heard
    projections = 4 * tokens * d * d + 2 * tokens * d * d + 2 * (text + image + audio) * d * d
    attention = 2 * tokens * tokens * d + 2 * tokens * (text + image + heard) * d
    feed_forward = 2 * tokens * d * dims.ffn
    block = projections + attention + feed_forward
    adapter = audio_states * dims.w2v * d + audio * d * d
    adapter += 2 * (2 * audio * d * d + 2 * tokens * d * d + 2 * audio * (tokens // frames) * d + 4 * audio * d * d)
    patch = dims.patch[0] * dims.patch[1] * dims.patch[2]
    embed = tokens * d * (dims.in_dim + dims.out_dim) * patch + text * (dims.text * d + d * d)
    embed += image * (dims.clip * dims.clip + dims.clip * d) + dims.freq_dim * d + 7 * d * d
    return 2 * (dims.layers * block + adapter + embed)


@torch.inference_mode()
def passes(bench: Bench) -> None:
    """Time a pass and a window step per attention backend, compiled or not, in bfloat16 and with float8 storage."""
    rows = bench.figures["passes"] = []
    backends = [None, *usable_attention(bench.device)] if not bench.tiny else [None, "native"]
    ways: list[tuple[str | None, bool, bool]] = [(name, False, False) for name in backends]
    if not bench.tiny:
        ways.append((None, True, False))  # compiling takes a minute
    ways.append((None, False, True))
    for size in bench.sizes:
        for attention, compiled, float8 in ways:
            row = time_pass(bench, size, bench.placement(attention=attention, compile=compiled, float8=float8))
            bench.free()
            rows.append(row)
            kind = f"{row['attention']:28s} compile={compiled!s:5} float8={float8!s:5}"
            print(f"  {size[0]}x{size[1]} {kind} {_s(row['pass_s'])} a pass, {_s(row['window_step_s'])} a window step")


def time_pass(bench: Bench, size: tuple[int, int], placement: Placement) -> dict[str, Any]:
    """Time a pass and a window step (adapter once, three passes) of a freshly placed model."""
    row: dict[str, Any] = {
        "size": size,
        "attention": placement.attention or "auto",
        "compile": placement.compile,
        "float8": placement.float8,
    }
    try:
        inputs: dict[str, Any] = bench.inputs(size)
        model = place(random_transformer(bench.dims, bench.dtype, bench.device), placement)

        def one() -> None:
            model(**inputs)

        def three() -> None:
            tokens = model(**inputs).audio_tokens
            model(**{**inputs, "audio_states": None, "audio_tokens": tokens})
            model(**{**inputs, "audio_states": None})

        row["pass_s"], row["window_step_s"] = bench.time(one), bench.time(three)
    except torch.OutOfMemoryError:
        row["pass_s"] = row["window_step_s"] = OUT_OF_MEMORY
    except (RuntimeError, ValueError, NotImplementedError) as error:  # a backend that can't take these shapes
        row["pass_s"] = row["window_step_s"] = f"failed: {str(error).splitlines()[0][:120]}"
    return row


def _s(value: float | str) -> str:
    return f"{value:8.3f} s" if isinstance(value, float) else value


@torch.inference_mode()
def matmul(bench: Bench) -> None:
    """Measure the matrix-product limit, and which share of it the fastest pass of each size reaches."""
    n = 256 if bench.tiny else 8192 if bench.device.type == "cuda" else 2048
    a, b = (torch.randn(n, n, device=bench.device, dtype=bench.dtype) for _ in range(2))
    seconds = bench.time(lambda: a @ b)
    limit = 2 * n**3 / seconds if isinstance(seconds, float) else 0.0
    shares = {}
    for size in bench.sizes:
        best = best_pass(bench, size, "pass_s")
        flops = flops_per_pass(bench.dims, memory.latent_tokens(bench.dims, *size, WINDOW), 161)
        if best and limit:
            shares[f"{size[0]}x{size[1]}"] = flops / best["pass_s"] / limit
    bench.figures["matmul"] = {"side": n, "tflops": limit / 1e12, "share_of_limit": shares}
    print(f"  {limit / 1e12:.2f} TFLOP/s at {n}; " + ", ".join(f"{k}: {100 * v:.0f} %" for k, v in shares.items()))


def best_pass(bench: Bench, size: tuple[int, int], key: str) -> dict[str, Any] | None:
    """Give the fastest row of a size, if any was measured."""
    rows = [r for r in bench.figures.get("passes", []) if r["size"] == size and isinstance(r[key], float)]
    return min(rows, key=lambda row: row[key], default=None)


@torch.inference_mode()
def vae_speed(bench: Bench) -> None:
    """Measure pictures per second of the streaming decoder and encoder, in float32 as renders use them."""
    with bench.device:
        model = build_vae(bench.vae_dims).eval()
    rows = bench.figures["vae"] = []
    for width, height in bench.sizes:
        frames = 3 if bench.tiny else 6
        latents = torch.randn(1, bench.vae_dims.z_dim, frames, height // 8, width // 8, device=bench.device)
        pixels = torch.rand(1, 3, PER_LATENT * (frames - 1) + 1, height, width, device=bench.device)

        def decode(latents: Tensor = latents) -> None:
            for _ in vae.decode_stream(model, latents.split(1, dim=2)):
                pass

        pictures = PER_LATENT * (frames - 1) + 1

        def encode(pixels: Tensor = pixels) -> None:
            vae.encode(model, pixels)

        seconds = [bench.time(decode), bench.time(encode)]
        rates = [pictures / s if isinstance(s, float) else s for s in seconds]
        rows.append({"size": (width, height), "decode_per_s": rates[0], "encode_per_s": rates[1]})
        print(f"  {width}x{height}: decode {rates[0]} pictures/s, encode {rates[1]} pictures/s")


@torch.inference_mode()
def peak_memory(bench: Bench) -> None:
    """Measure the peak of one pass in every memory mode on a GPU, beside the calculation."""
    rows = bench.figures["memory"] = []
    size = bench.sizes[0]
    for mode in MODES:
        calculated = memory.estimate(bench.dims, *size, WINDOW, mode, 2 if bench.dtype == torch.bfloat16 else 4)
        row = {"mode": mode, "calculated_pass_gib": (calculated.weights + calculated.activations) / 2**30}
        row |= {"measured_pass_gib": measure_pass(bench, size, mode)}
        bench.free()
        rows.append(row)
        print(f"  {mode:10s} calculated {row['calculated_pass_gib']:.2f} GiB, measured {row['measured_pass_gib']}")


def measure_pass(bench: Bench, size: tuple[int, int], mode: str) -> float | str:
    """Run one pass in a memory mode; give the peak of the device's memory in GiB, where it can be measured."""
    try:
        placement = bench.placement(memory=mode)
        begin = bench.device if mode == "full" else torch.device("cpu")
        model = Residents(placement).use(place(random_transformer(bench.dims, bench.dtype, begin), placement))
        inputs: dict[str, Any] = bench.inputs(size)
        if bench.device.type != "cuda":
            model(**inputs)
            return "runs; not measured on the CPU"
        torch.cuda.reset_peak_memory_stats(bench.device)
        model(**inputs)
        return torch.cuda.max_memory_allocated(bench.device) / 2**30
    except torch.OutOfMemoryError:
        return OUT_OF_MEMORY


@torch.inference_mode()
def equality(bench: Bench) -> None:
    """Compare wavefront with step order bit for bit, and one window per pass with two in a batch."""
    size, steps = bench.sizes[0], 3
    model = random_transformer(bench.dims, bench.dtype, bench.device)
    inputs = bench.inputs(size)
    fps = Fraction(25)
    plan = plan_windows(sample_of(4 * (WINDOW + 16) + 1, fps), fps, WINDOW, 5)
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
    two["hidden_states"][1] = two["hidden_states"][1].flip(0)
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
    """Estimate the seconds per second of video (50 steps, overlap 5) from the fastest window step measured."""
    rows = bench.figures["video"] = []
    plan = plan_windows(16000 * 600, Fraction(25), WINDOW, 5)
    for size in bench.sizes:
        best = best_pass(bench, size, "window_step_s")
        seconds = None if best is None else best["window_step_s"] * plan.count * 50 / 600
        rows.append({"size": size, "seconds_per_second": seconds, "from": best})
        print(f"  {size[0]}x{size[1]}: {'not measured' if seconds is None else f'{seconds:.1f} s per second of video'}")


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
