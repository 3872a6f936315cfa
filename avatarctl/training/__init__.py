"""Train on a cache of encoded samples: one loop for full training and LoRA, resumable to the bit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avatarctl.progress import Progress, showing
from avatarctl.settings.train import TrainJob

if TYPE_CHECKING:
    from avatarctl.training.loop import Trained


def train(job: TrainJob, show: Progress | None = None, force: bool = False) -> Trained | None:
    """Train, or go on where the run folder stands; ``force`` begins anew.

    ``show`` is called every few steps (None: no reports). Raises an ``AvatarError`` for whatever a user can mend. Under
    `accelerate launch` or `torchrun` the processes share the work: the first gives the result, the others None.
    """
    if job.train.stages:
        from avatarctl.training.curriculum import run
    else:
        from avatarctl.training.loop import run

    if show is not None:
        return run(job, show, force)
    with showing("none") as silent:
        return run(job, silent, force)
