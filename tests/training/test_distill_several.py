"""Tests with students of two processes: the numbers of one process."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from training.conftest import make_cache, random_sample
from training.test_distill import STEPS, STUDENT
from training.test_loop import same_weights
from training.test_several import TORCHRUN, finish, start

from avatarctl.settings.train import TrainJob, TrainSettings
from avatarctl.training import train
from avatarctl.training.log import read


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of five samples of one size."""
    samples = [random_sample(f"clip{i}-0") for i in range(5)]
    return make_cache(tmp_path_factory.mktemp("clips") / "cache", samples)


def preset(folder: Path, base: Path, **changes: Any) -> Path:
    path = folder / "student.yaml"
    told = {**STUDENT, "log_every": 1, "checkpoint_every": 2, "tracker": "none", "weights": str(base), **changes}
    path.write_text(json.dumps(told))
    return path


def argv(cache: Path, preset: Path, run: str, *more: str) -> list[str]:
    return ["lora", "train", "--data", str(cache), "--output", run, "--preset", str(preset), *more]


@pytest.mark.long
def test_guidance_is_learnt_by_two_processes_as_by_one_with_twice_the_passes(
    clips: Path, base: Path, tmp_path: Path
) -> None:
    told = preset(tmp_path, base, distill="guidance", batch_size=2, accumulate=1, own_states=0.5, stratify=True)
    status, out = finish(start([*TORCHRUN, "-m", "avatarctl"], tmp_path, argv(clips, told, "two", "--steps", "3")))
    assert status == 0, out
    settings = TrainSettings(**{**json.loads(told.read_text()), "accumulate": 2, "steps": 3})
    train(TrainJob(data=clips, output=tmp_path / "one", train=settings))
    found = [load_file(tmp_path / run / "lora.safetensors") for run in ("two", "one")]
    assert all((found[0][name] - tensor).abs().max() < 1e-5 for name, tensor in found[1].items())


@pytest.mark.long
def test_a_curriculum_of_two_processes_is_that_of_one(clips: Path, base: Path, tmp_path: Path) -> None:
    stages = [
        {"distill": "guidance", "steps": 1},
        {"distill": "steps", "distill_steps": 4, "teacher_evaluations": 2, "steps": 2},
    ]
    told = preset(tmp_path, base, stages=stages, batch_size=2, accumulate=2, rollout_states=4)
    for _ in range(2):  # the second time nothing is left to do
        status, out = finish(start([*TORCHRUN, "-m", "avatarctl"], tmp_path, argv(clips, told, "two")))
        assert status == 0, out
    settings = TrainSettings(**{**json.loads(told.read_text()), "accumulate": 4})
    train(TrainJob(data=clips, output=tmp_path / "one", train=settings))
    found = [load_file(tmp_path / run / "lora.safetensors") for run in ("two", "one")]
    assert all((found[0][name] - tensor).abs().max() < 1e-5 for name, tensor in found[1].items())


def test_two_processes_are_one_with_twice_the_passes_and_resume_to_the_bit(
    clips: Path, base: Path, tmp_path: Path
) -> None:
    told = preset(tmp_path, base, **{**STEPS, "accumulate": 2, "rollout_states": 4})
    two = [*TORCHRUN, "-m", "avatarctl"]
    status, out = finish(start(two, tmp_path, argv(clips, told, "straight", "--steps", "4")))
    assert status == 0, out
    shutil.copytree(tmp_path / "straight", tmp_path / "resumed")  # as it was left at step 2
    for path in ("checkpoints/step-00000004", "exports"):
        shutil.rmtree(tmp_path / "resumed" / path)
    (tmp_path / "resumed" / "lora.safetensors").unlink()
    status, out = finish(start(two, tmp_path, argv(clips, told, "resumed", "--steps", "4")))
    assert status == 0, out
    assert same_weights(*(tmp_path / run / "lora.safetensors" for run in ("straight", "resumed")))
    settings = TrainSettings(**{**json.loads(told.read_text()), "accumulate": 4, "steps": 4})
    train(TrainJob(data=clips, output=tmp_path / "one", train=settings))
    found = [load_file(tmp_path / run / "lora.safetensors") for run in ("straight", "one")]
    assert all((found[0][name] - tensor).abs().max() < 1e-5 for name, tensor in found[1].items())
    losses = [[row["loss"] for row in read(tmp_path / run) if "loss" in row] for run in ("straight", "one")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
