"""Tests with one render in one, two and three processes: they give the same bits, interrupted or not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import tiny_weights

from avatarctl.render.index import read_index

ROOT = Path(__file__).parents[2]
PRESET = """
size: 64x64
steps: 6
window: 4
overlap: {overlap}
guidance_reuse: 2
segment_latent_frames: 4
checkpoint_every: 0.2
preview: false
"""


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights, a picture and a voice of four seconds."""
    folder = tmp_path_factory.mktemp("studio")
    tiny_weights(folder / "weights")
    Image.radial_gradient("L").convert("RGB").save(folder / "face.png")
    samples = np.random.default_rng(0).normal(0, 3000, 16000 * 4).astype("<i2")
    with wave.open(str(folder / "voice.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(samples.tobytes())
    for overlap in (2, 3):
        (folder / f"overlap{overlap}.yaml").write_text(PRESET.format(overlap=overlap))
    return folder


def start(studio: Path, name: str, overlap: int, processes: int) -> subprocess.Popen[str]:
    launcher = [sys.executable, "-m", "avatarctl"]
    if processes > 1:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        launcher += ["-m", "avatarctl"]
    command = [*launcher, "generate", "-i", "face.png", "-a", "voice.wav", "-o", name, "--weights", "weights"]
    command += ["--preset", str(studio / f"overlap{overlap}.yaml"), "--device", "cpu", "--keep", "--progress", "json"]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "AVATARCTL_HOME": str(studio / "home"),
    }
    return subprocess.Popen(
        command, cwd=studio, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate(timeout=200)
    return out


@pytest.mark.parametrize("overlap", [2, 3])
def test_several_processes_give_the_bits_of_one(studio: Path, overlap: int) -> None:
    for processes in (1, 2):
        run = start(studio, f"{overlap}-{processes}.mp4", overlap, processes)
        out = finish(run)
        assert run.returncode == 0, out[-3000:]
    assert (studio / f"{overlap}-1.mp4").read_bytes() == (studio / f"{overlap}-2.mp4").read_bytes()
    # Final latents too, not only what is left of them after encoding.
    folders = [studio / f"{overlap}-{processes}.mp4.render" for processes in (1, 2)]
    indexes = [read_index(folder).files for folder in folders]
    windows = [{n: f.sha256 for n, f in index.items() if n.startswith("windows/")} for index in indexes]
    assert windows[0] == windows[1] and len(windows[0]) > 4


def test_a_render_stopped_with_two_processes_goes_on_with_one(studio: Path) -> None:
    straight = start(studio, "straight.mp4", 2, 1)
    assert straight.wait(timeout=200) == 0, finish(straight)
    run = start(studio, "stopped.mp4", 2, 2)
    events = studio / "stopped.mp4.render" / "events.jsonl"
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and not (events.exists() and '"checkpoint"' in events.read_text()):
        time.sleep(0.05)
    run.send_signal(signal.SIGTERM)
    finish(run)
    assert not (studio / "stopped.mp4").exists()
    again = start(studio, "stopped.mp4", 2, 1)
    out = finish(again)
    assert again.returncode == 0, out[-3000:]
    assert "resumed" in events.read_text()
    assert (studio / "stopped.mp4").read_bytes() == (studio / "straight.mp4").read_bytes()
