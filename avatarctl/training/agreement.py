"""Let the processes of a run agree on what they begin with, or end it with words, before anything waits for hours."""

from __future__ import annotations

import hashlib
import json
import socket
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from avatarctl.console import note
from avatarctl.errors import ChangedError
from avatarctl.settings.distill import place_free
from avatarctl.settings.train import TrainJob
from avatarctl.training import checkpoints


def agreed_checkpoint(job: TrainJob, accelerator: Accelerator) -> checkpoints.Checkpoint | None:
    """Return the newest whole checkpoint, as the first process finds it; raises ``ChangedError`` where others see another."""
    found: list[Any] = [None, None, []]
    if accelerator.is_main_process:
        checkpoint, passed_over = checkpoints.newest(job.output)
        if passed_over:
            note(f"checkpoints that are not whole were passed over: {', '.join(passed_over)}")
        found = [checkpoint.step if checkpoint else None, _mark(checkpoint), checkpoints.steps(job.output)]
        if accelerator.num_processes == 1:
            return checkpoint
    broadcast_object_list(found)
    step, mark, there = found
    here = checkpoints.at(job.output, step) if step is not None else None
    same = checkpoints.steps(job.output) == there and _mark(here) == mark
    rows = gather_object([(accelerator.process_index, socket.gethostname(), same)])
    others = [f"process {rank} on {host}" for rank, host, same in rows if not same]
    if others:
        began = "no checkpoint" if step is None else f"the checkpoint of step {step}"
        raise ChangedError(
            f"{job.output}: process 0 begins with {began}; {', '.join(others)} find another one there, or none",
            "--output has to be a folder that all machines share, by the same path",
        )
    return here


def _mark(checkpoint: checkpoints.Checkpoint | None) -> str | None:
    """Return a hash of what a checkpoint says of itself, its files' checksums among it."""
    if checkpoint is None:
        return None
    return hashlib.sha256((checkpoint.path / checkpoints.STATE).read_bytes()).hexdigest()


def agree_on_work(job: TrainJob, accelerator: Accelerator, data: str) -> None:
    """Raise ``ChangedError`` where processes have other samples (``data``: their hash) or other settings than the first."""
    if accelerator.num_processes == 1:
        return
    settings = json.dumps(place_free(job.train.model_dump(mode="json", exclude={"weights"})))
    rows = gather_object([(accelerator.process_index, socket.gethostname(), data, settings)])
    first = rows[0]
    if others := [f"process {row[0]} on {row[1]}" for row in rows if row[2] != first[2]]:
        raise ChangedError(
            f"{job.data}: process 0 finds other samples than {', '.join(others)}",
            "--data has to be one cache that all machines share, and no `avatarctl data encode` may be writing to it "
            "while a run begins; or the copies of it have to be the same",
        )
    if others := [f"process {row[0]} on {row[1]}" for row in rows if row[3] != first[3]]:
        raise ChangedError(
            f"settings: process 0 has others than {', '.join(others)}",
            "start every process with the same command, preset files included",
        )
