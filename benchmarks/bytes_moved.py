"""Count the bytes that window steps and decoded latent frames move between main memory and a GPU that is only pretended.

The real predictor and VAE at full size (tests/pretended; needs g++), nothing is computed. ``--before`` counts a step of an
older revision too, with everything on the device. Run from the project's root:

    python -m benchmarks.bytes_moved --before af68f55
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.trees import ROOT, checked_out

# Runs in either tree: names have changed since.
STEP = """
import json, sys, tempfile
from fractions import Fraction
from pathlib import Path
import torch
import gpu
from avatarctl.networks import kinds
from avatarctl.networks.dims import TRANSFORMER_1_3B
from avatarctl.sampling import denoise
from avatarctl.sampling.predict import Conditions, Predictor, scheme_of
from avatarctl.sampling.windows import plan_windows
try:
    from avatarctl.settings.render import RenderSettings
except ImportError:
    from avatarctl.settings import RenderSettings
Request = getattr(denoise, "WindowRequest", None) or denoise.Asked

class Levels:
    sigmas = (1.0, 0.8, 0.5, 0.2, 0.0)
    timesteps = property(lambda self: torch.zeros(4))

width, height, layers = map(int, sys.argv[1:])
gpu.build_guard(Path(tempfile.mkdtemp()))
dims = TRANSFORMER_1_3B.with_(layers=layers)
with gpu.pretended() as counted:
    model = kinds.build_transformer(dims).to(gpu.CUDA, torch.bfloat16)
    rows, columns = height // 8, width // 8
    states = torch.randn(1, 161, dims.w2v).to(gpu.CUDA)  # where the speech encoder leaves them
    text = [torch.randn(1, 60, dims.text) for _ in range(2)]
    reference = torch.randn(1, dims.in_dim - dims.out_dim, 21, rows, columns)
    conditions = Conditions(*text, torch.randn(1, 257, dims.clip), reference, lambda _: states)
    predict = Predictor(model, conditions, scheme_of(RenderSettings()), Levels(), 21)
    plan, found = plan_windows(16000 * 30, Fraction(25), 21, 5), []
    for step in range(3):
        counted.reset()
        predict([Request(plan.get(0), step, torch.randn(1, dims.out_dim, 21, rows, columns), None)])
        found.append({"to device": counted.moved["to device"], "to memory": counted.moved["to memory"]})
print(json.dumps(found))
"""
MODES = """
import sys
from test_bytes import FRAMES, measure
from avatarctl.networks.dims import TRANSFORMER_1_3B
import gpu, json, tempfile
from pathlib import Path
width, height, layers = map(int, sys.argv[1:])
gpu.build_guard(Path(tempfile.mkdtemp()))
for mode in ("full", "model", "group", "sequential"):
    print(json.dumps([mode, measure(TRANSFORMER_1_3B.with_(layers=layers), mode, False, (width, height))]))
"""


def run(tree: Path, code: str, numbers: list[str]) -> list[str]:
    """Run code in a tree beside this one's pretended device; return its lines."""
    helpers = ROOT / "tests" / "pretended"
    command = [sys.executable, "-c", code, *numbers]
    with tempfile.TemporaryDirectory() as home:
        own = {"PYTHONPATH": f"{tree}:{helpers}:{ROOT / 'tests'}", "AVATARCTL_HOME": home, "PATH": "/usr/bin:/bin"}
        done = subprocess.run(
            command, check=False, env={**own, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, cwd=tree
        )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return done.stdout.splitlines()


def main() -> None:
    """Print the bytes of a step before and now, and those of every memory mode."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", default="af68f55", help="revision to compare with")
    parser.add_argument("--size", default="512x512")
    parser.add_argument("--layers", type=int, default=30, help="of the transformer: 2 are quick")
    arguments = parser.parse_args()
    numbers = [*arguments.size.split("x"), str(arguments.layers)]
    with checked_out(arguments.before) as old, checked_out(None) as new:
        for label, tree in ((f"{arguments.before}", old), ("now", new)):
            for number, step in enumerate(json.loads(run(tree, STEP, numbers)[-1])):
                to_device, to_memory = (step[way] / 1e6 for way in ("to device", "to memory"))
                print(
                    f"{label:<10}step {number} of a window: {to_device:8.3f} MB to the device, {to_memory:8.3f} MB back"
                )
        for line in run(new, MODES, numbers):
            mode, found = json.loads(line)
            step = [found[f"step to {way}"] / 1e6 for way in ("device", "memory")]
            decoded = found["decode to device"] / 1e6
            print(f"{mode:<12}step: {step[0]:10.3f} MB to the device, {step[1]:8.3f} MB back; decode: {decoded:.3f} MB")


if __name__ == "__main__":
    main()
