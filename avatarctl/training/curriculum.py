"""A curriculum of students: one run folder per stage, each begun with the LoRA of the one before; one command resumes all."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from avatarctl import __version__, durable, ownership
from avatarctl.console import note
from avatarctl.errors import ChangedError, UsageError
from avatarctl.progress import Progress
from avatarctl.settings.train import TrainJob
from avatarctl.training import checkpoints
from avatarctl.training.changes import settings_of
from avatarctl.training.export import LORA, MANIFEST, STAGES
from avatarctl.training.folder import clear, guarded, held
from avatarctl.training.loop import Trained, run_with
from avatarctl.training.processes import accelerated, wait_for_all
from avatarctl.training.stages import jobs_of
from avatarctl.training.stopping import stopping
from avatarctl.weights import checksum

STAGE = re.compile(r"\d+-(guidance|steps-\d+)")


def run(job: TrainJob, show: Progress, force: bool) -> Trained | None:
    """Train the stages of a job one after another, each from where its folder stands.

    The newest student is ``lora.safetensors`` in the job's folder; that of every stage stays in the stage's own.
    """
    began, before, steps = time.monotonic(), 0, 0
    done: Trained | None = None
    stages = jobs_of(job)
    with stopping() as stop, accelerated(stages[0].train) as accelerator:
        if accelerator.is_main_process:
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
    return there and manifest.get("train") == settings_of(stage.train)


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
    whole = name in (STAGES, LORA) or ownership.own_part(name, lambda each: each in (STAGES, LORA))
    return whole or bool(STAGE.fullmatch(name.partition("/")[0]))


def prepare(job: TrainJob, stages: list[TrainJob], force: bool) -> None:
    """Check the folder of a curriculum, and that its stages are still those that it began with; write what it is."""
    folder = job.output
    with guarded(folder):
        ownership.make_folder(folder)
        strange = ownership.foreign(folder, own)
        if strange:
            raise UsageError(
                f"{folder}: got a folder with other files ({ownership.listed(strange)}), expected an empty one or a "
                "curriculum of students",
                "choose another --output; nothing was touched",
            )
        if force:  # at once: a later stage must not outlive what it began with
            (folder / LORA).unlink(missing_ok=True)
            for path in sorted(folder.iterdir()):
                if STAGE.fullmatch(path.name) and path.is_dir():
                    with held(path):
                        clear(path)
        begun = {} if force else durable.unsealed(folder / STAGES) or {}
        names = [stage.output.name for stage in stages]
        was = sorted(begun.get("stages", {}), key=lambda name: int(name.partition("-")[0]))
        if was and was[: len(names)] != names[: len(was)] and _any_step(folder / name for name in was):
            raise ChangedError(
                f"{folder}: it began with the stages {', '.join(was)}, and is asked for {', '.join(names)}",
                "resume with the old ones, or train into another --output",
            )
        content: dict[str, Any] = {"avatarctl": __version__, "train": settings_of(job.train), "stages": {}}
        for number, stage in enumerate(stages):
            known = begun.get("stages", {}).get(stage.output.name, {})
            content["stages"][stage.output.name] = known
            if number and (sum_ := known.get("began_with")) and (file := stages[number - 1].output / LORA).exists():
                _tell_of_another(stage, file, sum_)
        durable.replace(folder / STAGES, durable.sealed(content))


def deliver(job: TrainJob, stage: TrainJob, stages: list[TrainJob]) -> None:
    """Make a stage's student the newest of the curriculum, and note it as what the next stage begins with."""
    folder, file = job.output, stage.output / LORA
    following = stages[stages.index(stage) + 1 :][:1]
    with guarded(folder):
        durable.same_file(file, folder / LORA)
        content: dict[str, Any] = durable.unsealed(folder / STAGES) or {}
        for each in following:
            if not _any_step([each.output]):
                content["stages"][each.output.name] = {"began_with": checksum(file)}
        durable.replace(folder / STAGES, durable.sealed(content))


def _tell_of_another(stage: TrainJob, file: Path, began_with: str) -> None:
    if _any_step([stage.output]) and checksum(file) != began_with:
        again = f"remove {shlex.quote(str(stage.output))} to train it again from there"
        note(f"warning: {stage.output.name} began with another LoRA than {file} is by now; {again}")


def _any_step(runs: Any) -> bool:
    """Return whether one of these runs has trained."""
    return any((run / MANIFEST).exists() and checkpoints.steps(run) for run in runs)
