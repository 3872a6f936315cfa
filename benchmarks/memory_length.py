"""Measure the peak memory of whole renders of two lengths: it should not grow with length.

Every stage of a real render from the sound file to the MP4 file, at 64x64 pixels: tiny random networks with one pass per step,
or, with --embedded, the weights in the package as the preset `puppet` uses them:

    python benchmarks/memory_length.py --minutes 1 60 --json memory_length.json
    python benchmarks/memory_length.py --minutes 1 20 --embedded
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import wave
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PRESET = "size: 64x64\nsteps: 2\nguidance: none\nsegment_latent_frames: 150\npreview: false\n"
# Peak resident memory of the whole process, as the kernel counts it, after the render.
CHILD = """
import resource, sys
sys.argv = ["avatarctl", *sys.argv[1:]]
from avatarctl.cli import app
try:
    app()
except SystemExit as end:
    assert end.code in (0, None), end.code
sys.stderr.write(f"PEAK {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}")
"""


def noise_recording(path: Path, minutes: float) -> None:
    """Write mono noise at 16 kHz, a minute at a time."""
    generator = np.random.default_rng(0)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        left = round(minutes * 60 * 16000)
        while left:
            count = min(left, 960_000)
            file.writeframes(generator.normal(0, 3000, count).astype("<i2").tobytes())
            left -= count


def peak_of(minutes: float, folder: Path, how: list[str]) -> dict[str, float]:
    """Render ``minutes`` in a process of its own; return its peak memory in MB and its time."""
    noise_recording(folder / "voice.wav", minutes)
    command = [sys.executable, "-c", CHILD, "generate", "-a", "voice.wav", "-o", "out.mp4", "--force", "--quiet"]
    command += ["--device", "cpu", *how]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "AVATARCTL_HOME": str(folder / "home")}
    begin = time.perf_counter()
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if run.returncode:
        raise SystemExit(run.stderr[-2000:])
    peak_mb = int(run.stderr.rpartition("PEAK ")[2]) / 1024
    return {"minutes": minutes, "peak_mb": round(peak_mb, 1), "wall_s": round(time.perf_counter() - begin, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs="+", default=[1.0, 60.0])
    parser.add_argument("--embedded", action="store_true", help="with the weights in the package")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    from tiny import tiny_weights

    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny_weights(folder / "weights")
        Image.radial_gradient("L").convert("RGB").save(folder / "face.png")
        (folder / "tiny.yaml").write_text(PRESET)
        tiny = ["-i", "face.png", "--weights", "weights", "--preset", "tiny.yaml"]
        how = ["--preset", "puppet"] if arguments.embedded else tiny
        for minutes in arguments.minutes:
            rows.append(peak_of(minutes, folder, how))
            print(f"{minutes:6.1f} min: peak {rows[-1]['peak_mb']:.1f} MB, {rows[-1]['wall_s']:.0f} s")
    if len(rows) > 1:
        print(f"ratio of peaks: {rows[-1]['peak_mb'] / rows[0]['peak_mb']:.3f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
