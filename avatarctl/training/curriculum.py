"""A curriculum of students: one run folder per stage, each begun with the LoRA of the one before; one command resumes all."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from avatarctl import __version__, durable, ownership
from avatarctl.console import note
from avatarctl.errors import ChangedError
from avatarctl.progress import Progress
from avatarctl.settings.distill import STAGE, place_free
from avatarctl.settings.train import TrainJob
from avatarctl.training import checkpoints
from avatarctl.training.changes import settings_of
from avatarctl.training.export import LORA, MANIFEST, STAGES
from avatarctl.training.folder import LOCK, clear, forget_words, guarded, held, locked, refuse_foreign
from avatarctl.training.loop import Trained, run_with
from avatarctl.training.processes import accelerated, wait_for_all
from avatarctl.training.stages import jobs_of
from avatarctl.training.stopping import stopping
from avatarctl.weights import checksum


def run(job: TrainJob, show: Progress, force: bool) -> Trained | None:
    """Train the stages of a job one after another, each from where its folder stands.

    The newest student is ``lora.safetensors`` in the job's folder; that of every stage stays in the stage's own.
    """
    began, before, steps = time.monotonic(), 0, 0
    done: Trained | None = None
    stages = jobs_of(job)
    with ExitStack() as stack:
        stop, accelerator = stack.enter_context(stopping()), stack.enter_context(accelerated(stages[0].train))
        if accelerator.is_main_process:
            check_ours(job.output)
            stack.enter_context(locked(job.output, job.output / STAGES))
            prepare(job, stages, force)
        wait_for_all(accelerator)
        for number, stage in enumerate(stages, 1):
            if finished(stage):
                found = before_of(stage)
            else:
                if accelerator.is_main_process:
                    note(f"stage {number} of {len(stages)}: {stage.output.name}, {stage.train.steps} steps")
                with prepared_for(accelerator, stage):
                    trained = run_with(accelerator, stop, stage, show, False)
                if trained is None:
                    wait_for_all(accelerator)
                    continue
                found = trained
            if accelerator.is_main_process:
                deliver(job, stage, stages)
            done, steps, before = found, steps + found.steps, before + found.steps_before
            wait_for_all(accelerator)
        leads = accelerator.is_main_process
    if done is None or not leads:
        return None
    return replace(
        done,
        run=job.output,
        weights=job.output / LORA,
        steps=steps,
        steps_before=before,
        wall_s=time.monotonic() - began,
    )


def finished(stage: TrainJob) -> bool:
    """Return whether a stage has done its steps with the settings that it is asked for."""
    manifest = durable.unsealed(stage.output / MANIFEST) or {}
    there = checkpoints.steps(stage.output)[-1:] == [stage.train.steps] and (stage.output / LORA).exists()
    return there and place_free(manifest.get("train", {})) == place_free(settings_of(stage.train))


@contextmanager
def prepared_for(accelerator: Accelerator, stage: TrainJob) -> Iterator[None]:
    """Let the processes take as many passes a step as a stage asks for; what it held is released afterwards."""
    accelerator.gradient_accumulation_steps = stage.train.accumulate
    try:
        yield
    finally:
        accelerator.free_memory()


def before_of(stage: TrainJob) -> Trained:
    """Return what a finished stage made, in earlier runs."""
    checkpoint = checkpoints.at(stage.output, stage.train.steps)
    average = float(checkpoint.state["average"]) if checkpoint is not None else 0.0
    return Trained(stage.output, stage.output / LORA, stage.train.steps, average, 0.0, stage.train.steps)


def own(name: str) -> bool:
    """Return whether a curriculum writes this, or it lies in the folder of a stage, which looks after it."""
    whole = name in (STAGES, LORA, LOCK) or ownership.own_part(name, lambda each: each in (STAGES, LORA))
    return whole or bool(re.fullmatch(STAGE, name.partition("/")[0]))


def check_ours(folder: Path) -> None:
    """Raise ``UsageError`` for a folder that holds something and is no curriculum of ours."""
    if durable.unsealed(folder / STAGES) is None:
        refuse_foreign(folder, own, "a curriculum of students")


def prepare(job: TrainJob, stages: list[TrainJob], force: bool) -> None:
    """Check the folder of a curriculum, and that its stages are still those that it began with; write what it is."""
    folder = job.output
    with guarded(folder):
        forget_words(folder)
        if force:  # at once: a later stage must not outlive what it began with
            (folder / LORA).unlink(missing_ok=True)
            for path in sorted(folder.iterdir()):
                if re.fullmatch(STAGE, path.name) and path.is_dir():
                    with held(path):
                        clear(path)
        begun = {} if force else durable.unsealed(folder / STAGES) or {}
        names = [stage.output.name for stage in stages]
        was = sorted(begun.get("stages", {}), key=_number)
        if was and was[: len(names)] != names[: len(was)] and _any_step(folder / name for name in was):
            raise ChangedError(
                f"{folder}: it began with the stages {', '.join(was)}, and is asked for {', '.join(names)}",
                "resume with the old ones, or train into another --output",
            )
        # Later stages that aren't asked for now stay noted: what they began with is told when they are again.
        noted = {name: {} for name in names} | begun.get("stages", {})
        content: dict[str, Any] = {"avatarctl": __version__, "train": settings_of(job.train), "stages": noted}
        durable.replace(folder / STAGES, durable.sealed(content))


def deliver(job: TrainJob, stage: TrainJob, stages: list[TrainJob]) -> None:
    """Make a stage's student the newest of the curriculum, and note it as what the next stage begins with."""
    folder, file = job.output, stage.output / LORA
    later = stages[stages.index(stage) + 1 :]
    with guarded(folder):
        content: dict[str, Any] = durable.unsealed(folder / STAGES) or {}
        newer = [name for name in content["stages"] if _number(name) > _number(stage.output.name)]
        if not any((folder / name / LORA).exists() for name in newer):
            durable.same_file(file, folder / LORA)
        for each in later[:1]:
            known = content["stages"].setdefault(each.output.name, {})
            if not _any_step([each.output]):
                known["began_with"] = checksum(file)
            elif sum_ := known.get("began_with"):
                _tell_of_another(each, file, sum_)
        durable.replace(folder / STAGES, durable.sealed(content))


def _tell_of_another(stage: TrainJob, file: Path, began_with: str) -> None:
    if _any_step([stage.output]) and checksum(file) != began_with:
        again = f"remove {shlex.quote(str(stage.output))} to train it again from there"
        note(f"warning: {stage.output.name} began with another LoRA than {file} is by now; {again}")


def _number(stage: str) -> int:
    """Return the place of a stage, which its name begins with."""
    return int(stage.partition("-")[0])


def _any_step(runs: Any) -> bool:
    """Return whether one of these runs has trained."""
    return any((run / MANIFEST).exists() and checkpoints.steps(run) for run in runs)
