"""Tests with curricula of students: one command for all stages, resumed wherever it was stopped or moved to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from training.conftest import make_cache, random_sample
from training.test_distill import STUDENT
from training.test_loop import same_weights, stop_after

from avatarctl.errors import BusyError, ChangedError, Interrupted, UsageError
from avatarctl.settings.student import student_of
from avatarctl.settings.train import TrainJob, TrainSettings
from avatarctl.settings.values import lora_file
from avatarctl.training import train
from avatarctl.training.curriculum import finished
from avatarctl.training.folder import locked
from avatarctl.training.plan import plan
from avatarctl.training.stages import jobs_of

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


def stopping(job: TrainJob, word: str, of: int) -> Callable[..., None]:
    """Return what puts a word into a curriculum's folder after the first step of the stage that takes ``of`` steps."""

    def show(done: int, total: int, **_: Any) -> None:
        if (done, total) == (1, of):
            (job.output / word).touch()

    return show


def test_words_in_its_folder_are_heard_by_the_stage_that_trains(stages: Callable[..., TrainJob]) -> None:
    made = stages()
    with pytest.raises(Interrupted):
        train(made, stopping(made, "stop", 3))
    assert not (made.output / "stop").exists()
    assert json.loads((made.output / "2-steps-4" / "run.json").read_text())["train"]["distill_steps"] == 4
    (made.output / "train.log").write_text(
        "mine"
    )  # a file of the user's is no reason to end a curriculum that has begun
    (made.output / "stop").touch()  # a word to a run that is over
    train(made, stopping(made, "save", 3))
    assert not (made.output / "save").exists() and (made.output / "train.log").read_text() == "mine"
    assert finished(jobs_of(made)[2])


def test_it_goes_on_wherever_it_was_moved_to(stages: Callable[..., TrainJob], capsys: pytest.CaptureFixture) -> None:
    made = stages()
    with pytest.raises(Interrupted):
        train(made, stopping(made, "stop", 3))
    moved = made.model_copy(update={"output": made.output.with_name("moved")})
    shutil.move(made.output, moved.output)
    done = train(moved)
    assert done is not None and (done.steps, done.steps_before) == (7, 4)
    again = train(moved)
    assert again is not None and again.steps_before == 7


def test_force_on_one_that_trains_touches_nothing(stages: Callable[..., TrainJob]) -> None:
    made = stages(stages=STAGES[:1])
    train(made)
    kept = sorted(path.relative_to(made.output) for path in made.output.rglob("*"))
    with (
        locked(made.output, made.output / "stages.json"),
        pytest.raises(BusyError, match="another process trains in it"),
    ):
        train(made, force=True)
    assert sorted(path.relative_to(made.output) for path in made.output.rglob("*")) == kept


def test_the_newest_student_never_goes_backwards(
    stages: Callable[..., TrainJob], capsys: pytest.CaptureFixture[str]
) -> None:
    made = stages()
    train(made)
    newest = (made.output / "lora.safetensors").read_bytes()
    train(stages(stages=STAGES[:2]))  # the last one isn't asked for now
    assert (made.output / "lora.safetensors").read_bytes() == newest
    capsys.readouterr()
    train(stages(stages=[{**STAGES[0], "steps": 4}, *STAGES[1:]]))
    told = capsys.readouterr().err
    assert "warning: 2-steps-4 began with another LoRA than" in told, "the first stage is another one by now"
    assert (made.output / "lora.safetensors").read_bytes() == newest


def test_hints_name_what_a_stage_listens_to(stages: Callable[..., TrainJob]) -> None:
    from avatarctl.training.folder import is_stage, listening

    made = stages(stages=STAGES[:1])
    train(made)
    run = made.output / "1-guidance"
    assert is_stage(run) and listening(run) == [run, made.output]
    assert not is_stage(made.output) and listening(made.output) == [made.output]
