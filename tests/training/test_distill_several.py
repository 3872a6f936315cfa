"""Tests with students of two processes and of several stages: the numbers of one process, and one command for all stages."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from training.conftest import make_cache, random_sample
from training.test_distill import STEPS, STUDENT
from training.test_loop import same_weights, stop_after
from training.test_several import TORCHRUN, finish, start

from avatarctl.errors import ChangedError, Interrupted, UsageError
from avatarctl.settings.student import student_of
from avatarctl.settings.train import TrainJob, TrainSettings
from avatarctl.settings.values import lora_file
from avatarctl.training import train
from avatarctl.training.log import read
from avatarctl.training.plan import plan

STAGES = [
    {"distill": "guidance", "steps": 2},
    {"distill": "steps", "distill_steps": 4, "steps": 3, "learning_rate": 5e-3},
    {"distill": "steps", "distill_steps": 2, "steps": 2, "teacher_evaluations": 4},
]


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


# -- Stages -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def stages(clips: Path, base: Path, tmp_path: Path) -> Callable[..., TrainJob]:
    """Return the maker of a small curriculum."""

    def of(name: str = "students", **changes: Any) -> TrainJob:
        settings = TrainSettings(
            **{"weights": base, **STUDENT, "batch_size": 2, "stages": STAGES, "log_every": 1, **changes}
        )
        return TrainJob(data=clips, output=tmp_path / name, train=settings)

    return of


def test_each_stage_begins_with_the_one_before_and_is_of_use(stages: Callable[..., TrainJob]) -> None:
    made = stages()
    done = train(made)
    assert done is not None and (done.steps, done.weights) == (7, made.output / "lora.safetensors")
    names = ["1-guidance", "2-steps-4", "3-steps-2"]
    files = [made.output / name / "lora.safetensors" for name in names]
    facts = [student_of(file) for file in files]
    assert [each and (each["stage"], each["steps"]) for each in facts] == [
        ("guidance", None),
        ("steps", 4),
        ("steps", 2),
    ]
    assert lora_file(made.output).samefile(files[2])
    alone = made.model_copy(
        update={
            "output": made.output.with_name("alone"),
            "train": TrainSettings(**{**made.train.model_dump(), **STAGES[1], "init_lora": files[0], "stages": ()}),
        }
    )
    train(alone)
    assert same_weights(alone.output / "lora.safetensors", files[1])
    again = train(made)
    assert again is not None and (again.steps, again.steps_before) == (7, 7)


def test_a_curriculum_resumes_in_the_stage_that_was_stopped(stages: Callable[..., TrainJob]) -> None:
    straight, stopped = stages("straight"), stages("stopped")
    train(straight)
    second = stopped.model_copy(update={"output": stopped.output / "2-steps-4"})

    def show(done: int, total: int, **facts: Any) -> None:
        if total == 3:
            stop_after(second, 1)(done, total)

    with pytest.raises(Interrupted):
        train(stopped, show)
    assert lora_file(stopped.output).samefile(stopped.output / "1-guidance" / "lora.safetensors")
    train(stopped)
    for name in ("2-steps-4", "3-steps-2"):
        assert same_weights(*(run.output / name / "lora.safetensors" for run in (straight, stopped)))


def test_other_stages_and_foreign_folders_are_refused(stages: Callable[..., TrainJob], tmp_path: Path) -> None:
    made = stages(stages=STAGES[:1])
    train(made)
    longer = stages()  # more stages may follow
    train(longer)
    with pytest.raises(ChangedError, match="it began with the stages 1-guidance, 2-steps-4, 3-steps-2"):
        train(stages(stages=STAGES[1:]))
    train(stages(stages=STAGES[:1]), force=True)
    assert not (made.output / "2-steps-4" / "run.json").exists(), "a student of a teacher's that is gone is none"
    other = stages("other")
    other.output.mkdir()
    (other.output / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"got a folder with other files \(mine.txt\)"):
        train(other)


def test_the_plan_tells_of_every_stage(stages: Callable[..., TrainJob]) -> None:
    planned = plan(stages())
    assert planned.steps == 7 and len(planned.students) == 3
    assert planned.students[1].startswith("4 steps, 3 training steps; teacher: 3 passes; a step costs ")
