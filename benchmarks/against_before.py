"""Measure window steps and whole renders of the embedded avatar on the CPU, this tree against an older revision.

Both trees render the sample in turn, several times. A window step is what lies between two reports of one (the median of all
of them, decoding between two steps left out by that); what is left of the render is loading, decoding and joining. The time
of the processor is that of the whole command with its encoders. Run from the project's root:

    python -m benchmarks.against_before --before af68f55
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.trees import checked_out, environment

STEP = re.compile(r'"window_steps": (\d+), "of": (\d+)')


@dataclass
class Renders:
    """What renders of one tree took, in seconds."""

    step_s: list[float] = field(default_factory=list)
    sampling_s: list[float] = field(default_factory=list)
    after_s: list[float] = field(default_factory=list)
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    videos: set[bytes] = field(default_factory=set)


def render(tree: Path, home: Path, threads: str, more: list[str], found: Renders) -> None:
    """Render the sample once, and note what it took."""
    output = home / "demo.mp4"
    command = [sys.executable, "-m", "avatarctl", "demo", "--output", str(output), "--force", "--quiet"]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    process = subprocess.Popen(
        [*command, "--progress", "json", *more],
        env=environment(tree, home, threads),
        cwd=home,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    times = []
    for line in process.stderr:
        if STEP.search(line):
            times.append(time.monotonic())
    if process.wait():
        raise RuntimeError(f"{tree}: the render ended with {process.returncode}")
    ended, after = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    found.step_s += [second - first for first, second in itertools.pairwise(times)]
    found.sampling_s.append(times[-1] - times[0])
    found.after_s.append(ended - times[-1])
    found.wall_s.append(ended - began)
    found.cpu_s.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    found.videos.add(output.read_bytes())


def main() -> None:
    """Print the medians of both trees and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", default="af68f55", help="revision to compare with")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", default="1", help="of torch, in both trees")
    parser.add_argument("--cold", action="store_true", help="no render of each tree before, which makes text states")
    parser.add_argument("--json", type=Path)
    parser.add_argument("more", nargs="*", help="further options of the command, after --")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, checked_out(arguments.before) as old, checked_out(None) as new:
        trees = {"before": old, "now": new}
        found = {label: Renders() for label in trees}
        warm_up = 0 if arguments.cold else 1
        for number in range(arguments.rounds + warm_up):
            for label, tree in trees.items():
                home = Path(name) / label
                home.mkdir(exist_ok=True)
                # The first one makes text states and checksums, which stay.
                render(tree, home, arguments.threads, arguments.more, found[label] if number >= warm_up else Renders())
    rows = {
        what: {label: statistics.median(getattr(renders, what)) for label, renders in found.items()}
        for what in ("step_s", "sampling_s", "after_s", "wall_s", "cpu_s")
    }
    said = {
        "step_s": "a window step",
        "sampling_s": "first to last window step",
        "after_s": "after the last window step",
        "wall_s": "the whole command",
        "cpu_s": "of the processor, all of it",
    }
    for what, row in rows.items():
        ratio = row["now"] / row["before"]
        print(f"{said[what]:<28}{row['before']:>9.3f} s before{row['now']:>9.3f} s now   ratio {ratio:.3f}")
    same = all(len(renders.videos) == 1 for renders in found.values())
    print(f"every render of a tree gave the same bytes: {'yes' if same else 'NO'}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
