"""Tell what a training job would do: samples, steps, weights that train, memory. Loads no weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from avatarctl.data.shards import read_null_text
from avatarctl.networks.memory import transformer_parameters
from avatarctl.settings.train import TrainJob
from avatarctl.training.memory import TrainingMemory, estimate, trained_parameters
from avatarctl.training.model import base_dims, base_file, check_fits, new_dims
from avatarctl.training.samples import Samples


@dataclass(frozen=True)
class TrainingPlan:
    """What a job would do in one process."""

    samples: int
    held_out: int
    buckets: Mapping[str, int]
    steps: int
    samples_per_step: int
    epochs: float
    parameters: int
    trained: int
    memory: TrainingMemory

    def facts(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)


def plan(job: TrainJob) -> TrainingPlan:
    """Look at samples and base weights, and calculate the rest for the largest samples."""
    settings = job.train
    samples = Samples(job.data, settings, read_null_text(job.data)[settings.null_text])
    shapes = samples.shapes()
    file = base_file(settings)
    dims = new_dims(settings, shapes) if file is None else base_dims(file, shapes)
    check_fits(dims, shapes, str(file or "dims"))
    sizes = Counter(tuple(entry.shapes["latents"][1:]) for entry in samples.train)
    frames, rows, columns = max(sizes, key=lambda size: size[0] * size[1] * size[2])
    gpu = settings.device != "cpu" and torch.cuda.is_available()
    narrow = settings.dtype == "bfloat16" or (settings.dtype == "auto" and gpu)
    per_step = settings.batch_size * settings.accumulate
    return TrainingPlan(
        samples=len(samples.train),
        held_out=len(samples.held_out),
        buckets={f"{8 * w}x{8 * h}x{4 * t - 3}": count for (t, h, w), count in sorted(sizes.items())},
        steps=settings.steps,
        samples_per_step=per_step,
        epochs=settings.steps * per_step / len(samples.train),
        parameters=transformer_parameters(dims),
        trained=trained_parameters(dims, settings)[0],
        memory=estimate(dims, 8 * columns, 8 * rows, frames, settings, narrow, gpu),
    )
