"""Tell what a training job would do: samples, steps, weights that train, memory. Loads no weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from avatarctl.data.shards import read_null_text
from avatarctl.errors import DeviceError
from avatarctl.networks.dims import TransformerDims
from avatarctl.networks.memory import transformer_parameters
from avatarctl.settings.train import TrainJob, TrainSettings
from avatarctl.training.conditions import videos_of
from avatarctl.training.distill_about import check_students_run
from avatarctl.training.distill_cost import in_words
from avatarctl.training.memory import TrainingMemory, estimate, trained_parameters, ways_to_save
from avatarctl.training.model import base_dims, base_file, check_fits, new_dims
from avatarctl.training.samples import Samples
from avatarctl.training.stages import jobs_of


@dataclass(frozen=True)
class TrainingPlan:
    """What a job would do in one process."""

    samples: int
    held_out: int
    left_out: int
    buckets: Mapping[str, int]
    steps: int
    samples_per_step: int
    epochs: float
    parameters: int
    trained: int
    memory: TrainingMemory
    students: tuple[str, ...] = ()
    """What is distilled, stage by stage, and what a step costs."""

    def facts(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)


def plan(job: TrainJob) -> TrainingPlan:
    """Look at samples and base weights, and calculate the rest for the largest samples; of a curriculum, memory of a stage."""
    if job.train.stages:
        planned = [plan(each.model_copy(update={"train": _alone(each.train)})) for each in jobs_of(job)]
        words = tuple(text for each in planned for text in each.students)
        steps, epochs = sum(each.steps for each in planned), sum(each.epochs for each in planned)
        return replace(planned[0], steps=steps, epochs=epochs, students=words)
    settings = job.train
    samples = Samples((job.data, *job.more_data), settings, read_null_text(job.data)[settings.null_text])
    shapes = samples.shapes()
    file = base_file(settings)
    dims = new_dims(settings, shapes) if file is None else base_dims(file, shapes["speech"][-1])
    check_fits(dims, shapes, str(file or "dims"))
    check_students_run(job, samples)
    videos_of(settings)
    sizes = _sizes(samples)
    frames, rows, columns = _largest(sizes)
    gpu = settings.device != "cpu" and torch.cuda.is_available()
    narrow = settings.dtype == "bfloat16" or (settings.dtype == "auto" and gpu)
    per_step = settings.batch_size * settings.accumulate
    return TrainingPlan(
        samples=len(samples.train),
        held_out=len(samples.held_out),
        left_out=len(samples.left_out),
        buckets={f"{8 * w}x{8 * h}x{4 * t - 3}": count for (t, h, w), count in sorted(sizes.items())},
        steps=settings.steps,
        samples_per_step=per_step,
        epochs=settings.steps * per_step / len(samples.train) / (settings.states_per_clip * settings.passes_per_batch),
        parameters=transformer_parameters(dims),
        trained=trained_parameters(dims, settings)[0],
        memory=estimate(dims, 8 * columns, 8 * rows, frames, settings, narrow, gpu),
        students=(in_words(settings),) if settings.is_student else (),
    )


def _alone(settings: TrainSettings) -> TrainSettings:
    """Return a stage's settings without the LoRA that the stage before will have made."""
    return settings.model_copy(update={"init_lora": None})


def text_len_of(job: TrainJob, samples: Samples) -> int:
    """Return how many tokens of text the transformer of a job reads."""
    return dims_of(job, samples).text_len


def dims_of(job: TrainJob, samples: Samples) -> TransformerDims:
    """Return the sizes of the transformer that a job trains."""
    file, shapes = base_file(job.train), samples.shapes()
    return new_dims(job.train, shapes) if file is None else base_dims(file, shapes["speech"][-1])


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**29 else f"{count / 2**20:.1f} MiB"


def _sizes(samples: Samples) -> Counter[tuple[int, ...]]:
    """Return (latent frames, rows, columns) -> number of samples to train on."""
    return Counter(tuple(entry.shapes["latents"][1:]) for entry in samples.train)


def _largest(sizes: Counter[tuple[int, ...]]) -> tuple[int, ...]:
    return max(sizes, key=lambda size: size[0] * size[1] * size[2])


@contextmanager
def explained(job: TrainJob, samples: Samples, begun: bool) -> Iterator[None]:
    """Turn a full device into an error that names what helps most first; ``begun``: the run has a checkpoint."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        settings, dims = job.train, dims_of(job, samples)
        frames, rows, columns = _largest(_sizes(samples))
        narrow = settings.dtype == "bfloat16" or (settings.dtype == "auto" and torch.cuda.is_available())
        ways = ways_to_save(dims, 8 * columns, 8 * rows, frames, settings, narrow, begun)
        listed = "; then ".join(f"{flags} (about {_size(saved)} less)" for flags, saved in ways[:3])
        if listed:
            words = f"add to the same command, what helps most first: {listed}"
            words += "; the run is resumed from its last checkpoint" if begun else ""
        else:
            words = "encode smaller or shorter windows (`avatarctl data encode --size`), or use a card with more memory"
        raise DeviceError(
            f"device: out of memory ({str(error).splitlines()[0]})",
            words,
        ) from error
