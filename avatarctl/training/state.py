"""Everything that a run carries from step to step: model, optimizer, average of the weights, where it stands."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from diffusers.training_utils import EMAModel
from torch import Tensor

from avatarctl.console import note
from avatarctl.data.shards import read_null_text
from avatarctl.errors import UsageError
from avatarctl.networks.attach import load_trained
from avatarctl.networks.block_swap import BlockSwap
from avatarctl.networks.names import is_audio
from avatarctl.settings.train import TrainJob, TrainSettings
from avatarctl.training.checkpoints import Checkpoint
from avatarctl.training.model import beginning, hollow_model, make_model, place_model
from avatarctl.training.optimizer import make_optimizer
from avatarctl.training.processes import is_narrow, narrowed
from avatarctl.training.samples import Samples
from avatarctl.training.sharded import SHARES, load_shares


@dataclass
class RunState:
    """``bare`` is the transformer, ``model`` the same as accelerate wraps it; ``trained`` are the weights that train."""

    job: TrainJob
    accelerator: Accelerator
    samples: Samples
    bare: Any
    model: Any
    optimizer: Any
    ema: EMAModel | None
    names: list[str]
    trained: list[torch.nn.Parameter]
    base: dict[str, Tensor]
    step: int = 0
    bad_steps: int = 0
    """Steps skipped since the last one that was taken."""
    first_step: int = 0
    """Step that this process began with, and the number of its first batch."""
    first_batch: int = 0
    average: float = math.nan
    exported: Path | None = field(default=None)

    @property
    def settings(self) -> TrainSettings:
        """How the run trains."""
        return self.job.train

    @property
    def leads(self) -> bool:
        """Whether this is the first process, which writes files."""
        return self.accelerator.is_main_process

    @property
    def sharded(self) -> bool:
        """Whether weights are spread over the processes (FSDP2)."""
        return self.accelerator.distributed_type == DistributedType.FSDP

    @property
    def zero(self) -> bool:
        """Whether the optimizer's states alone are spread over the processes (DeepSpeed ZeRO-2)."""
        return self.accelerator.distributed_type == DistributedType.DEEPSPEED

    @property
    def spread(self) -> bool:
        """Whether a checkpoint needs all processes."""
        return self.sharded or self.zero

    def narrowed(self) -> AbstractContextManager[Any]:
        """Return the context of a pass: the number format that the settings ask for."""
        return narrowed(self.settings, self.accelerator.device)

    @property
    def passes(self) -> int:
        """Passes of an optimizer step, over all processes."""
        return self.settings.accumulate * self.accelerator.num_processes

    @property
    def batches(self) -> int:
        """Batches of clips of an optimizer step, over all processes: some passes may learn from the same."""
        return self.passes // self.settings.passes_per_batch

    @property
    def by_parameter(self) -> dict[torch.nn.Parameter, str]:
        """The name of each weight that trains."""
        return dict(zip(self.trained, self.names, strict=True))

    @property
    def samples_per_step(self) -> int:
        """Samples of an optimizer step, over all processes."""
        return self.passes * self.settings.batch_size

    def without_audio(self) -> Tensor:
        """Return zero, made of the audio layers: processes wait for their gradients, and pictures leave them without."""
        audio = [p.sum() for p, name in self.by_parameter.items() if is_audio(name)]
        return torch.stack(audio).sum() * 0 if audio else torch.zeros(())

    def batch_number(self, place: int) -> int:
        """Return the number of a batch, counted from the run's beginning: of the step at hand, at this place in it."""
        return self.first_batch + (self.step - self.first_step) * self.batches + place


def find_samples(job: TrainJob) -> Samples:
    """Return the samples of a job's cache."""
    return Samples((job.data, *job.more_data), job.train, read_null_text(job.data)[job.train.null_text].float())


def build_state(job: TrainJob, accelerator: Accelerator, samples: Samples, checkpoint: Checkpoint | None) -> RunState:
    """Build model and optimizer; what trains is loaded from the checkpoint, if there is one."""
    settings = job.train
    sharded = accelerator.distributed_type == DistributedType.FSDP
    zero = accelerator.distributed_type == DistributedType.DEEPSPEED
    if sharded and settings.ema:
        raise UsageError(
            "sharded training: got ema, which needs whole weights in every process",
            "set ema=0, or launch it with DeepSpeed ZeRO-2 or without sharding",
        )
    if (sharded or zero) and (settings.base_dtype == "float8" or settings.block_swap):
        raise UsageError(
            "sharded training: got base_dtype float8 or block_swap, expected whole weights of one number format",
            "set base_dtype=same and block_swap=0, or launch it without FSDP and DeepSpeed",
        )
    if zero and settings.clip_outliers > 1:
        raise UsageError(
            "DeepSpeed: got clip_outliers, which it has no place for", "set clip_outliers=1, or launch it with FSDP2"
        )
    if (sharded or zero) and samples.has_pictures:
        raise UsageError(
            "sharded training: got pictures among the samples, which leave some weights out of a step",
            "encode without --pictures, leave them out with repeats, or launch it without FSDP and DeepSpeed",
        )
    if accelerator.is_main_process and checkpoint is None:
        for text in beginning(settings):
            note(text)
    # What a checkpoint holds has the LoRA that the run began with in it.
    begun = settings if checkpoint is None else settings.model_copy(update={"init_lora": None})
    hollow = sharded and not accelerator.is_main_process
    base: dict[str, Tensor] = {}
    if hollow:
        model = hollow_model(begun, samples.shapes(), accelerator.device)
    else:
        model, base = make_model(begun, samples.shapes(), accelerator.device)
    if sharded:  # accelerate asks for it by the name that transformers gave it
        model.get_parameter_or_buffer = model.get_parameter
    dtype = torch.bfloat16 if is_narrow(settings, accelerator.device) else torch.float32
    bare = place_model(model, settings, dtype, sharded or zero)
    if settings.block_swap:
        BlockSwap(bare.blocks, settings.block_swap, accelerator.device)
    if settings.compile:
        bare.compile_repeated_blocks()
    shares = checkpoint.path / SHARES if checkpoint is not None and (checkpoint.path / SHARES).exists() else None
    if checkpoint is not None and not (shares and sharded) and not hollow:
        load_trained(bare, load_shares(shares, "trained") if shares else checkpoint.tensors("trained"))
    named = [(name, parameter) for name, parameter in bare.named_parameters() if parameter.requires_grad]
    wrapped, optimizer = accelerator.prepare(bare, make_optimizer(named, settings))
    trains = {name: parameter for name, parameter in bare.named_parameters() if parameter.requires_grad}
    if shares and sharded:
        with torch.no_grad():
            for name, tensor in load_shares(shares, "trained", trains).items():
                trains[name].copy_(tensor)
    trained = list(trains.values())
    ema = EMAModel(trained, decay=settings.ema) if settings.ema else None
    return RunState(job, accelerator, samples, bare, wrapped, optimizer, ema, list(trains), trained, base)
