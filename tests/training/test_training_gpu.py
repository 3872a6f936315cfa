"""Tests with a GPU: training runs there as on the CPU: close losses, resumed runs, a float8 base, sharded weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from served import ROOT
from training.conftest import SMALL

from avatarctl.errors import Interrupted
from avatarctl.settings.train import TrainJob
from avatarctl.training import train
from avatarctl.training.log import read

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
Maker = Callable[..., TrainJob]
GPU = {"device": "cuda", "dtype": "bfloat16", "log_every": 1}


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in read(run)]


def test_losses_are_those_of_the_cpu(job: Maker) -> None:
    cpu, float32, bfloat16 = job("cpu"), job("float32", **GPU | {"dtype": "float32"}), job("bfloat16", **GPU)
    for made in (cpu, float32, bfloat16):
        train(made)
    assert losses(float32.output) == pytest.approx(losses(cpu.output), rel=1e-2)
    assert losses(bfloat16.output) == pytest.approx(losses(cpu.output), rel=5e-2)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"attention": "lora", "norms": "frozen", "feed_forward": "frozen", "rank": 4, "base_dtype": "float8"},
        {"offload_activations": True},
        {"attention": "lora", "norms": "frozen", "feed_forward": "frozen", "rank": 4, "block_swap": 2},
    ],
    ids=["full", "float8 lora", "offloaded", "swapped"],
)
def test_a_stopped_run_goes_on(job: Maker, changes: dict[str, Any]) -> None:
    straight, stopped = job("straight", **GPU, **changes), job("stopped", **GPU, **changes)
    train(straight)

    def show(done: int, total: int, **facts: Any) -> None:
        if done == 2:
            (stopped.output / "stop").touch()

    with pytest.raises(Interrupted):
        train(stopped, show)
    train(stopped)
    assert losses(stopped.output) == pytest.approx(losses(straight.output), rel=1e-3)


def test_sharded_weights_resume_on_one_gpu(cache: Path, base: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((ROOT / "presets" / "train" / "accelerate" / "fsdp2.yaml").read_text())
    (tmp_path / "fsdp2.yaml").write_text(yaml.safe_dump({**config, "num_processes": 1}))
    settings = {**SMALL, **GPU, "weights": str(base)}
    (tmp_path / "small.yaml").write_text(json.dumps(settings))

    def run(name: str, steps: int) -> list[float]:
        launcher = [
            sys.executable,
            "-m",
            "accelerate.commands.launch",
            "--config_file",
            "fsdp2.yaml",
            "-m",
            "avatarctl",
        ]
        argv = ["train", "--data", str(cache), "--output", name, "--preset", "small.yaml", "--steps", str(steps)]
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        ended = subprocess.run([*launcher, *argv], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr[-3000:]
        return losses(tmp_path / name)

    straight = run("straight", 4)
    run("stopped", 2)
    assert run("stopped", 4) == pytest.approx(straight, rel=1e-3)
    assert (tmp_path / "stopped" / "transformer.safetensors").exists()
