"""Measure the main memory of a whole render with files of full size in the released layout, without a GPU.

Writes 16 GB of seeded numbers under the released names (``--weights FOLDER``, kept for the next run), renders one window in one
step at a small size, and samples the process's memory every 50 ms:

    python benchmarks/full_size.py --weights /tmp/full-size
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
from transformers import Wav2Vec2Config, Wav2Vec2Model

from avatarctl.paths import embedded_avatar
from avatarctl.weights import WAN

SHAPES = Path(__file__).parents[1] / "tests" / "golden" / "data" / "checkpoint_keys.json"
FIELDS = ("VmRSS", "RssAnon", "RssFile")


def make_weights(folder: Path) -> None:
    """Write every network of the 1.3B set that isn't there yet: names, shapes and number formats are the released ones."""
    noise = torch.randn(1 << 22, generator=torch.Generator().manual_seed(0))
    for path, shapes in json.loads(SHAPES.read_text()).items():
        target = folder / path
        if "14B" in path or target.exists():
            continue
        dtype = torch.float32 if "VAE" in path else torch.float16 if "clip" in path else torch.bfloat16
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_suffix(".part")
        torch.save({name: numbers(name, torch.Size(shape), dtype, noise) for name, shape in shapes.items()}, part)
        part.replace(target)
        print(path, f"{target.stat().st_size / 1e9:.2f} GB", flush=True)
    if not (folder / "wav2vec2-base-960h").exists():
        Wav2Vec2Model(Wav2Vec2Config()).save_pretrained(folder / "wav2vec2-base-960h")
    shutil.copytree(embedded_avatar() / "weights" / "tokenizer", folder / WAN / "google/umt5-xxl", dirs_exist_ok=True)


def numbers(name: str, shape: torch.Size, dtype: torch.dtype, noise: torch.Tensor) -> torch.Tensor:
    """Return a weight that keeps activations near one: ones and zeros for norms and biases, noise for the rest."""
    if len(shape) <= 1 or "norm" in name or "gamma" in name:
        return (torch.ones if name.endswith(("weight", "gamma")) else torch.zeros)(shape, dtype=dtype)
    count = shape.numel()
    values = noise.repeat(-(-count // len(noise)))[:count] * (0.5 / max(count // shape[0], 1) ** 0.5)
    return values.to(dtype).reshape(shape)


def watched(command: list[str], environment: dict[str, str]) -> dict[str, float]:
    """Run a command; return the largest of each kind of memory in GB, seconds and exit status."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(command, env=environment)
    peaks = dict.fromkeys(FIELDS, 0)
    while process.poll() is None:
        try:
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        except OSError:
            break
        found = {key: int(rest.split()[0]) for key, _, rest in (line.partition(":") for line in lines) if key in FIELDS}
        peaks = {key: max(peaks[key], found.get(key, 0)) for key in FIELDS}
        time.sleep(0.05)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    return {
        **{f"{key}_gb": round(value * 1024 / 1e9, 2) for key, value in peaks.items()},
        "cpu_s": round(cpu_s, 1),
        "wall_s": round(time.monotonic() - began, 1),
        "exit_code": process.wait(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="folder for 16 GB of files")
    parser.add_argument("--size", default="96x96")
    parser.add_argument("more", nargs="*", help="further flags of `avatarctl generate`, after --")
    asked = parser.parse_args()
    make_weights(asked.weights)
    samples = embedded_avatar() / "samples"
    command = [sys.executable, "-m", "avatarctl", "generate", "--weights", str(asked.weights), "--steps", "1"]
    command += ["-i", str(samples / "picture.png"), "-a", str(samples / "voice.wav"), "--duration", "1"]
    command += ["--size", asked.size, "-o", str(asked.weights / "video.mp4"), "--force", *asked.more]
    home = asked.weights / "home"
    shutil.rmtree(home, ignore_errors=True)  # cached text states would spare the text encoder
    print(json.dumps(watched(command, {**os.environ, "AVATARCTL_HOME": str(home)})))


if __name__ == "__main__":
    main()
