"""Run commands of this tree and of an older revision side by side, with the processor time that they took."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Took:
    """Seconds on the clock and of the processor (user and system, of the process and its children)."""

    wall_s: float
    cpu_s: float


@contextmanager
def checked_out(revision: str | None) -> Iterator[Path]:
    """Return a folder with the sources of a revision; None: this tree as it is."""
    if revision is None:
        yield ROOT
        return
    folder = Path(tempfile.mkdtemp(prefix="avatarctl-tree-"))
    archive = subprocess.run(["git", "-C", ROOT, "archive", revision], stdout=subprocess.PIPE, check=True)
    subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def environment(tree: Path, home: Path, threads: str | None) -> dict[str, str]:
    """Return this environment with a tree's package, a home folder of its own, and OpenMP as the tree itself sets it.

    ``threads``: a number of threads for both trees.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "_AVATARCTL"))}
    if threads is not None:
        own["OMP_NUM_THREADS"] = threads
    return {**own, "PYTHONPATH": f"{tree}{os.pathsep}{home}", "AVATARCTL_HOME": str(home)}


def hide(packages: Sequence[str], home: Path) -> None:
    """Let processes with this home folder run as if these packages weren't installed."""
    lines = [f"sys.modules[{name!r}] = None" for name in packages]
    (home / "sitecustomize.py").write_text("\n".join(["import sys", *lines]), encoding="utf-8")


def run(arguments: Sequence[str], own: dict[str, str], until: str | None = None) -> Took:
    """Run Python with these arguments to its end, or until a line on its stderr holds ``until``, and kill it then."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env=own,
        cwd=own["AVATARCTL_HOME"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if until is not None and until in line:
            process.send_signal(signal.SIGKILL)
            break
    code = process.wait()
    wall_s, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if code != (0 if until is None else -signal.SIGKILL):
        raise RuntimeError(f"ended with {code}: {''.join(said[-5:])}")
    return Took(wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
