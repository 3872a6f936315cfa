"""Measure how much longer a demo takes beside a program that keeps one of two cores busy, here and at an older revision.

Alone and busy in turn, with the number of threads that each tree chooses itself; the clock counts. Linux alone. Run from
the project's root, on a machine that does nothing else:

    python benchmarks/busy_core.py --before af68f55
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.trees import checked_out, environment, run

LIMIT = 1.5


@contextmanager
def busy(cpu: int) -> Iterator[None]:
    """Keep one CPU busy."""
    spin = f"import os\nos.sched_setaffinity(0, {{{cpu}}})\nwhile True: pass"
    process = subprocess.Popen([sys.executable, "-c", spin])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def demo_s(tree: Path, home: Path) -> float:
    """Return the seconds of one demo."""
    command = ["-m", "avatarctl", "demo", "--output", str(home / "demo.mp4"), "--force", "--quiet"]
    return run(command, environment(tree, home, None)).wall_s


def main() -> None:
    """Print the medians alone and busy of both trees; exit with 1 where this tree's ratio is over the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", default="af68f55", help="revision to compare with")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    two = sorted(os.sched_getaffinity(0))[:2]
    os.sched_setaffinity(0, two)  # children keep it
    ratios = {}
    with tempfile.TemporaryDirectory() as name, checked_out(arguments.before) as old, checked_out(None) as new:
        labels = {old: f"before ({arguments.before})", new: "now"}
        took: dict[tuple[Path, bool], list[float]] = {}
        for number in range(arguments.rounds + 1):
            for tree in labels:
                home = Path(name) / tree.name
                home.mkdir(exist_ok=True)
                for is_busy in (False, True):
                    if is_busy:
                        with busy(two[-1]):
                            seconds = demo_s(tree, home)
                    else:
                        seconds = demo_s(tree, home)
                    if number:  # the first round warms caches
                        took.setdefault((tree, is_busy), []).append(seconds)
        for tree, label in labels.items():
            alone, beside = (statistics.median(took[tree, is_busy]) for is_busy in (False, True))
            ratios[tree] = beside / alone
            spread = ", ".join(f"{seconds:.1f}" for seconds in took[tree, True])
            print(
                f"{label}: {alone:.1f} s alone, {beside:.1f} s beside a busy core ({spread}): {ratios[tree]:.2f} times"
            )
        sys.exit(int(ratios[new] > LIMIT))


if __name__ == "__main__":
    main()
