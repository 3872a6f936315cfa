"""The runs of a curriculum of students: one per stage, in a folder of its own."""

from __future__ import annotations

from avatarctl.settings.distill import stage_settings
from avatarctl.settings.train import TrainJob
from avatarctl.training.export import LORA


def jobs_of(job: TrainJob) -> list[TrainJob]:
    """Return the job of every stage: all but the first begin with the LoRA of the one before."""
    found: list[TrainJob] = []
    for name, settings in stage_settings(job.train):
        if found:
            settings = settings.model_copy(update={"init_lora": found[-1].output.resolve() / LORA})
        found.append(job.model_copy(update={"output": job.output / name, "train": settings}))
    return found
