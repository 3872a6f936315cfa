"""Train the embedded avatar's lips from a transformer without audio layers, by command lines, and measure them.

    python benchmarks/lips_from_nothing.py FOLDER         # about an hour on one CPU core; the same command resumes

Shows that a run from Wan2.1, which has no audio layers, learns lips: the transformer that the embedded avatar ships loses its
audio layers, and `avatarctl train --preset puppet-lips` trains new ones. Ends with 1 when the mouths of held-out voices don't
open with them (correlation of at least 0.6), or do so with other voices (more than 0.15). Needs espeak-ng.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
CLIPS, PAIRS = 600, 20
LEAST, MOST = 0.6, 0.15
COMMANDS = (
    f"avatarctl puppet data --output drawn/clips --clips {CLIPS}",
    "avatarctl data encode drawn --output cache --weights puppet --preset puppet",
    "avatarctl train --data cache --output run --preset puppet-lips --weights bare.safetensors",
    "avatarctl puppet pack --weights puppet --transformer run/transformer.safetensors --output packed",
    f"avatarctl puppet evaluate --weights packed/weights --output report --pairs {PAIRS} --minutes 0 --no-tables",
)


def main() -> None:
    """Run the command lines and judge the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, help="fewer or more than the preset's")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    if not (asked.folder / "bare.safetensors").exists():
        command = [sys.executable, str(ROOT / "benchmarks" / "without_audio.py"), "--output", "bare.safetensors"]
        subprocess.run(command, cwd=asked.folder, env=environment, check=True)
    for line in COMMANDS:
        more = ["--steps", str(asked.steps)] if asked.steps and line.startswith("avatarctl train") else []
        print(f"$ {line} {' '.join(more)}".rstrip(), flush=True)
        command = [sys.executable, "-m", *line.split(), *more]
        subprocess.run(command, cwd=asked.folder, env=environment, check=True)
    held_out = json.loads((asked.folder / "report" / "report.json").read_text())["held_out"]
    lips, others = held_out["correlation"], held_out["shuffled"]
    print(f"opening: {lips:.3f} with their own voices (at least {LEAST}), {others:.3f} with others (at most {MOST})")
    sys.exit(not (lips >= LEAST and abs(others) <= MOST))


if __name__ == "__main__":
    main()
