"""Test helper: tiny renders in folders of their own: run, killed, resumed, and what they left behind (from settings)."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from served import Attempt, Server
from tiny import tiny_weights

from avatarctl.render.index import read_index

ROOT = Path(__file__).parents[2]
PRESET = """
size: 64x64
steps: 2
window: 3
overlap: 2
fit: cover
segment_latent_frames: 2
checkpoint_every: 0
device: cpu
"""


def write_wav(path: Path, samples_TC: NDArray[np.floating], rate_hz: int) -> Path:
    """Write sound (T, C) of full scale 1 as a 16-bit WAV file."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples_TC.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes((samples_TC * 32767).astype("<i2").tobytes())
    return path


def babble(seconds: float, rate_hz: int = 16000, channels: int = 1, seed: int = 0) -> NDArray[np.floating]:
    """Return noise (T, C) that swells and fades."""
    count = round(seconds * rate_hz)
    noise_TC = np.random.default_rng(seed).normal(0, 0.1, (count, channels))
    return (noise_TC * (1 + np.sin(np.arange(count) * 20 / rate_hz))[:, None]).clip(-1, 1)


def furnish(folder: Path) -> Path:
    """Fill a folder with tiny weights, pictures, recordings and a preset."""
    tiny_weights(folder / "weights")
    Image.radial_gradient("L").convert("RGB").save(folder / "face.png")
    write_wav(folder / "voice.wav", babble(0.68), 16000)  # 17 pictures, 5 latent frames, 3 windows, 3 segments
    write_wav(folder / "long.wav", babble(1.8), 16000)  # 45 pictures, 12 latent frames, 10 windows, 6 segments
    Image.linear_gradient("L").convert("RGB").save(folder / "other.png")
    write_wav(folder / "other.wav", babble(0.68, seed=1), 16000)
    (folder / "tiny.yaml").write_text(PRESET)
    return folder


class Case:
    """One render in a folder of its own, in the hands of a server."""

    def __init__(self, studio: Path, server: Server, folder: Path, audio: str = "voice.wav") -> None:
        self.studio, self.server, self.folder, self.audio = studio, server, folder, audio
        folder.mkdir()
        self.output = folder / "talk.mp4"
        self.render = folder / "talk.mp4.render"

    def argv(self, *more: str) -> list[str]:
        """Return the command line of ``generate``; later flags win."""
        files = ["-i", self.studio / "face.png", "-a", self.studio / self.audio, "-o", self.output]
        files += ["--weights", self.studio / "weights", "--preset", self.studio / "tiny.yaml"]
        return ["generate", *map(str, files), "--progress", "json", *more]

    def stop(self, *more: str, steps: int = 3) -> None:
        """Run `generate` and kill it once its folder holds so many window steps."""
        attempt = self.generate(*more, meanwhile=signal_at(self, steps))
        assert attempt.status == -signal.SIGKILL, attempt.log

    def generate(self, *more: str, **how: Any) -> Attempt:
        """Run ``generate``."""
        return self.server.run(self.folder, self.argv(*more), **how)

    def together(self, processes: int, *more: str, **how: Any) -> list[Attempt]:
        """Run ``generate`` in several processes of a launcher."""
        return self.server.run_together(self.folder, self.argv(*more), processes, **how)

    def command(self, *argv: str, **how: Any) -> Attempt:
        """Run any command."""
        return self.server.run(self.folder, list(argv), **how)

    def bytes(self) -> bytes:
        """Return the finished video."""
        return self.output.read_bytes()

    def start(self, *argv: str) -> subprocess.Popen[str]:
        """Start the command line in a process as users do; both streams come in one."""
        return subprocess.Popen(
            [sys.executable, "-m", "avatarctl", *argv],
            cwd=self.folder,
            env=self.server.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def events(self) -> list[dict[str, Any]]:
        """Return the render folder's events."""
        path = self.render / "events.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def checkpoint(self) -> int:
        """Return the window steps that the last checkpoint holds."""
        return max((e["window_steps"] for e in self.events() if e["event"] == "checkpoint"), default=0)


def signal_at(case: Case, steps: int, number: int = signal.SIGKILL) -> Callable[[int], None]:
    """Return what sends a process a signal as soon as its folder holds so many window steps."""

    def send(pid: int) -> None:
        deadline = time.monotonic() + 60
        while case.checkpoint() < steps:
            assert time.monotonic() < deadline, case.events()
            time.sleep(0.005)
        os.kill(pid, number)

    return send


def kill_when(case: Case, name: str, steps: int = 1) -> Callable[[int], None]:
    """Return what kills a process once its folder holds so many window steps and lists a file that a thread writes beside."""

    def send(pid: int) -> None:
        deadline = time.monotonic() + 60
        while case.checkpoint() < steps or name not in read_index(case.render).files:
            assert time.monotonic() < deadline, case.events()
            time.sleep(0.005)
        os.kill(pid, signal.SIGKILL)

    return send


def straight(case: Case, *more: str) -> bytes:
    """Render without interruption; return the video."""
    attempt = case.generate(*more)
    assert attempt.status == 0, attempt.log
    return case.bytes()


def seeded(name: str) -> random.Random:
    """Return random numbers that are the same in every run of a test."""
    return random.Random(name)
