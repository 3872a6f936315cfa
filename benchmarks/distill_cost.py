"""Measure a step of each stage of distillation, and its memory, as multiples of those of a plain LoRA of the same rank.

The real command, in a process of its own for each row, the rows in turns, on a cache of samples of the weights:

    python -m benchmarks.distill_cost --data CACHE                                  # the embedded avatar
    python -m benchmarks.distill_cost --data CACHE --preset distill-1.3b --rounds 1 # on a GPU

Seconds are the median of the steps but the first; memory is the process's peak, on a GPU the device's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROWS: dict[str, dict[str, Any]] = {
    "plain LoRA": {"distill": "none", "rollout_states": None, "teacher_interval": None},
    "guidance": {"distill": "guidance"},
    "8 steps": {"distill": "steps", "distill_steps": 8, "teacher_evaluations": 3},
    "4 steps": {"distill": "steps", "distill_steps": 4, "teacher_evaluations": 4},
}
CHILD = """
import resource, sys
import torch
from avatarctl.cli import app
sys.argv = ["avatarctl", *sys.argv[1:]]
try:
    app()
except SystemExit as end:
    assert end.code in (0, None), end.code
peak = torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else 0
print("PEAK", peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, file=sys.stderr)
"""


def run(row: dict[str, Any], asked: argparse.Namespace, folder: Path) -> tuple[list[float], float]:
    """Train a few steps; return the seconds of each but the first, and the peak of memory in MB."""
    preset = {"extends": asked.preset, "stages": [], "holdout": 0, **row}
    (folder / "row.yaml").write_text("\n".join(f"{name}: {json.dumps(value)}" for name, value in preset.items()) + "\n")
    command = [sys.executable, "-c", CHILD, "lora", "train", "--data", str(asked.data.resolve()), "--output", "run"]
    command += ["--preset", "row.yaml", "--steps", str(asked.steps), "--quiet"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    told = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    seconds = [line["step_s"] for line in told if "step_s" in line]
    return seconds[1:], float(done.stderr.split("PEAK ")[1].split()[0])


def main() -> None:
    """Measure every row as often as asked for, in turns, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--preset", default="distill-puppet")
    parser.add_argument("--steps", type=int, default=6, help="of each row and round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in ROWS}
    peaks: dict[str, list[float]] = {name: [] for name in ROWS}
    for _ in range(asked.rounds):
        for name, row in ROWS.items():
            with tempfile.TemporaryDirectory() as folder:
                each, peak = run(row, asked, Path(folder))
            seconds[name] += each
            peaks[name].append(peak)
    plain_s, plain_mb = statistics.median(seconds["plain LoRA"]), statistics.median(peaks["plain LoRA"])
    print("| | seconds a step | times | peak memory | times |\n|---|---|---|---|---|")
    for name in ROWS:
        step_s, peak_mb = statistics.median(seconds[name]), statistics.median(peaks[name])
        print(f"| {name} | {step_s:.2f} | {step_s / plain_s:.1f} | {peak_mb:.0f} MB | {peak_mb / plain_mb:.2f} |")
    if asked.json:
        asked.json.write_text(json.dumps({"seconds": seconds, "peak_mb": peaks}, indent=1))


if __name__ == "__main__":
    main()
