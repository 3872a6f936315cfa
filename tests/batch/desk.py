"""Test helper: batches over it: run, stopped, killed, and what they left behind (from a folder of tiny weights and voices)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from render.workshop import babble, write_wav

ROOT = Path(__file__).parents[2]


@dataclass
class Bench:
    """A folder with voices, and the batch over them."""

    studio: Path
    folder: Path
    running: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def output(self) -> Path:
        """Where the videos go."""
        return self.folder / "videos"

    def voices(self, *lengths_s: float) -> Path:
        """Fill a folder with voices of these lengths: a.wav, b.wav …"""
        source = self.folder / "voices"
        source.mkdir(exist_ok=True)
        for number, length_s in enumerate(lengths_s):
            write_wav(source / f"v{number:02d}.wav", babble(length_s, seed=number), 16000)
        return source

    def argv(self, source: Path, *more: str) -> list[str]:
        """Return the command line; later flags win."""
        files = ["batch", source, "--output", self.output, "--image", self.studio / "face.png"]
        files += ["--weights", self.studio / "weights", "--preset", self.studio / "tiny.yaml"]
        return [sys.executable, "-m", "avatarctl", *map(str, files), "--progress", "json", *more]

    def start(self, source: Path, *more: str, **environment: str) -> subprocess.Popen[str]:
        """Start a batch."""
        return self._start(self.argv(source, *more), environment)

    def start_any(self, *argv: object) -> subprocess.Popen[str]:
        """Start any command."""
        return self._start([sys.executable, "-m", "avatarctl", *map(str, argv)], {})

    def _start(self, argv: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
        home = {"AVATARCTL_HOME": str(self.studio / "home"), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            argv,
            cwd=self.folder,
            env={**os.environ, **home, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.running.append(process)
        return process

    def run(self, source: Path, *more: str, **environment: str) -> Ended:
        """Run a batch to its end."""
        process = self.start(source, *more, **environment)
        out, err = process.communicate(timeout=300)
        return Ended(process.returncode, out, err)

    def summary(self) -> dict[str, Any]:
        """Return summary.json."""
        return json.loads((self.output / "summary.json").read_text())

    def states(self) -> dict[str, str]:
        """Return output -> state."""
        return {row["output"]: row["state"] for row in self.summary()["items"]}

    def records(self) -> dict[str, tuple[int, bytes]]:
        """Return the records of finished videos with their time of change, and those of the videos."""
        state = self.output / ".avatarctl-batch"
        files = [*state.glob("*.json"), *(self.output / path.stem for path in state.glob("*.json"))]
        return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in files if path.exists()}


@dataclass(frozen=True)
class Ended:
    """How a batch ended, and what it said."""

    status: int
    out: str
    err: str

    def data(self) -> dict[str, Any]:
        """Return the data of ``--json``."""
        return json.loads(self.out)["data"]


def workers(driver: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return the worker processes of a batch."""
    try:
        below = psutil.Process(driver.pid).children()
    except psutil.NoSuchProcess:
        return []
    return [child for child in below if "avatarctl.batch.worker" in " ".join(_words(child))]


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []


def wait_for(what: Callable[[], Any], seconds: float = 90) -> Any:
    """Wait until something is true; give it."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)
    return found


def kill(process: psutil.Process | subprocess.Popen[str]) -> None:
    """Send SIGKILL, if the process is still there."""
    try:
        os.kill(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
