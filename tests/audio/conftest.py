"""Test helper: recordings in every format the tests read (from samples and ffmpeg options)."""

import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest


@pytest.fixture
def encode(tmp_path):
    """Writes ``samples_TC`` (float32) through ffmpeg to a file in the test's folder, gives its path.

    ``first_source`` is a source of ffmpeg's own, input 0 before the samples.
    """

    def write(name: str, samples_TC: np.ndarray, rate_hz: int, *options: str, first_source: str = "") -> Path:
        path = tmp_path / name
        lavfi = ["-f", "lavfi", "-i", first_source] if first_source else []
        source = [*lavfi, "-f", "f32le", "-ar", str(rate_hz), "-ac", str(samples_TC.shape[1]), "-i", "pipe:0"]
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *source, *options, f"file:{path}"]
        subprocess.run(command, input=samples_TC.astype("<f4").tobytes(), check=True)
        return path

    return write


@pytest.fixture
def click():
    """A quiet rising tone of 2 s with one loud sample at exactly 1 s: (frames, 1)."""

    def make(rate_hz: int) -> np.ndarray:
        time_s = np.arange(2 * rate_hz) / rate_hz
        samples_T = 0.05 * np.sin(2 * np.pi * (200 * time_s + 300 * time_s**2))
        samples_T[rate_hz] += 0.7
        return samples_T[:, None].astype(np.float32)

    return make


@pytest.fixture
def noise():
    """Seeded noise: (frames, channels)."""

    def make(frames: int, channels: int = 1) -> np.ndarray:
        return (0.1 * np.random.default_rng(7).standard_normal((frames, channels))).astype(np.float32)

    return make
