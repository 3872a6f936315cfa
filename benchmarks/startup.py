"""Measure the processor time from `avatarctl demo` to its first window step, this tree against an older revision.

Both trees run in turn, several times; the time of `import torch` alone, which both need, is taken off. Run from the
project's root:

    python benchmarks/startup.py --before af68f55
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.trees import checked_out, environment, hide, run

IMPORTS = "import avatarctl.cli, sys; from avatarctl.networks import lean; lean.allow(); lean.import_networks(); "
RENDER = "import avatarctl.render.engine"


def start(tree: Path, home: Path) -> float:
    """Return the seconds of processor time from the command to the first window step."""
    command = [
        "-m",
        "avatarctl",
        "demo",
        "--output",
        str(home / "demo.mp4"),
        "--force",
        "--quiet",
        "--progress",
        "json",
    ]
    return run(command, environment(tree, home, "1"), until='"window_steps": 1,').cpu_s


def packages(tree: Path, home: Path, code: str) -> Counter[str]:
    """Return the microseconds that ``-X importtime`` finds for each package that a render imports."""
    command = [sys.executable, "-X", "importtime", "-c", code]
    own = environment(tree, home, "1")
    done = subprocess.run(command, env=own, cwd=home, capture_output=True, text=True, check=True)
    found: Counter[str] = Counter()
    for line in done.stderr.splitlines():
        if (
            line.startswith("import time:")
            and (columns := line.removeprefix("import time:").split("|"))[0].strip().isdigit()
        ):
            found[columns[2].strip().split(".")[0]] += int(columns[0])
    return found


def main() -> None:
    """Print the medians, their ratio and what each package costs in both trees."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", default="af68f55", help="revision to compare with")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--without", action="append", default=[], help="a package to run as if it weren't installed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, checked_out(arguments.before) as old, checked_out(None) as new:
        homes = {tree: Path(name) / label for tree, label in ((old, "before"), (new, "after"))}
        for tree, home in homes.items():
            home.mkdir()
            hide(arguments.without, home)
            whole = ["-m", "avatarctl", "demo", "--output", str(home / "demo.mp4"), "--quiet"]
            run(whole, environment(tree, home, "1"))  # makes the text states, which stay
        torch_s: list[float] = []
        took: dict[Path, list[float]] = {old: [], new: []}
        for _ in range(arguments.rounds):
            torch_s.append(run(["-c", "import torch"], environment(new, homes[new], "1")).cpu_s)
            for tree, seconds in took.items():
                seconds.append(start(tree, homes[tree]))
        base = statistics.median(torch_s)
        before, after = (statistics.median(took[tree]) - base for tree in (old, new))
        print(f"import torch: {base:.2f} s of processor time (median of {arguments.rounds})")
        print(f"to the first window step, less that: {before:.2f} s at {arguments.before}, {after:.2f} s now")
        print(f"ratio {after / before:.2f}")
        was, now = packages(old, homes[old], RENDER), packages(new, homes[new], IMPORTS + RENDER)
        print(f"\n{'PACKAGE':<22}{'BEFORE':>8}{'NOW':>8}  seconds, -X importtime")
        for package, _ in (was | now).most_common(16):
            print(f"{package:<22}{was[package] / 1e6:>8.2f}{now[package] / 1e6:>8.2f}")


if __name__ == "__main__":
    main()
