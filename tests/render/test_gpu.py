"""Tests with a GPU: renders run on it in every memory mode and go on after a stop with the same bytes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from avatarctl.errors import Interrupted
from avatarctl.render import render
from avatarctl.render.video import inspect
from avatarctl.settings.placement import PlacementSettings
from avatarctl.settings.render import RenderJob, RenderSettings

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


def job_of(studio: Path, output: Path, **placement: object) -> RenderJob:
    return RenderJob(
        image=studio / "face.png",
        audio=studio / "long.wav",
        output=output,
        weights=studio / "weights",
        render=RenderSettings(size=(64, 64), steps=3, window=3, overlap=2, segment_latent_frames=4),
        placement=PlacementSettings(**{"device": "cuda", **placement}),
    )


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVATARCTL_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("memory", ["full", "model", "group", "sequential"])
def test_every_memory_mode_renders(studio: Path, tmp_path: Path, memory: str, dtype: str) -> None:
    render(job_of(studio, tmp_path / "out.mp4", memory=memory, dtype=dtype))
    assert inspect(tmp_path / "out.mp4").pictures == 45


def test_float8_weights_and_tiles_render(studio: Path, tmp_path: Path) -> None:
    render(job_of(studio, tmp_path / "out.mp4", memory="group", weights_dtype="float8", vae_tiling=True))
    assert inspect(tmp_path / "out.mp4").pictures == 45


def test_an_interrupted_render_ends_with_the_same_bytes(studio: Path, tmp_path: Path) -> None:
    render(job_of(studio, tmp_path / "straight.mp4"))
    job = job_of(studio, tmp_path / "stopped.mp4")

    def stop_at(done: int, total: int, **_: object) -> None:
        if done == 12:
            os.kill(os.getpid(), 15)

    with pytest.raises(Interrupted):
        render(job, show=stop_at)
    render(job)
    assert job.output.read_bytes() == (tmp_path / "straight.mp4").read_bytes()
