"""Measure the time of a batch with one and with two workers on the CPU, as a ratio in one run.

The embedded avatar, on the cores that this process may use; run from the project's root:

    python benchmarks/batch_throughput.py
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from avatarctl.paths import embedded_avatar
from avatarctl.puppet.pack import write_wave

ROOT = Path(__file__).parents[1]


def batch(folder: Path, output: str, jobs: int) -> float:
    """Run a batch of the embedded avatar; return the seconds from its first look to its last video."""
    argv = [sys.executable, "-m", "avatarctl", "batch", folder / "voices", "--output", folder / output]
    argv += ["--preset", "puppet", "--device", "cpu", "--jobs", jobs, "--json", "--progress", "none"]
    search = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH")) if part)
    environment = {**os.environ, "PYTHONPATH": search, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([str(word) for word in argv], env=environment, stdout=subprocess.PIPE, text=True, check=True)
    data: dict[str, Any] = json.loads(done.stdout)["data"]
    return float(data["wall_s"])


def main() -> None:
    """Make the same videos with one worker and with two, of one thread each; the first time is left out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "voices").mkdir()
        noise = np.random.default_rng(0).normal(0, 0.1, (arguments.videos, round(arguments.seconds * 16000)))
        for number, samples in enumerate(noise.astype(np.float32)):
            write_wave(folder / "voices" / f"{number:02d}.wav", samples)
        assert embedded_avatar().is_dir(), "it comes with the program"
        batch(folder, "warm", 1)
        one, two = (batch(folder, f"by {jobs}", jobs) for jobs in (1, 2))
    print(f"{arguments.videos} videos of {arguments.seconds:g} s: 2 workers make {one / two:.2f} times as many as 1")


if __name__ == "__main__":
    main()
