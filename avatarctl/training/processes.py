"""The processes of a run: what the launcher's environment and the settings ask of accelerate."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, InitProcessGroupKwargs

from avatarctl.errors import DeviceError
from avatarctl.settings.train import TrainSettings

SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)


@contextmanager
def accelerated(settings: TrainSettings) -> Iterator[Accelerator]:
    """Return the accelerator that the launcher's environment and the settings ask for."""
    cpu = settings.device == "cpu" or not torch.cuda.is_available()
    if cpu and settings.device.startswith("cuda"):
        raise DeviceError(f"device: got {settings.device}, but no GPU is usable", "avatarctl doctor says why")
    if settings.device.startswith("cuda:") and "LOCAL_RANK" not in os.environ:
        torch.cuda.set_device(settings.device)
    narrow = settings.dtype == "bfloat16" or (settings.dtype == "auto" and not cpu)
    accelerator = Accelerator(
        cpu=cpu,
        mixed_precision="bf16" if narrow else "no",
        gradient_accumulation_steps=settings.accumulate,
        # The others wait while the first makes validation videos.
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=12))],
    )
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        config = accelerator.state.deepspeed_plugin.deepspeed_config
        config["train_micro_batch_size_per_gpu"] = settings.batch_size
    try:
        yield accelerator
        accelerator.end_training()
    finally:
        if accelerator.num_processes == 1:
            AcceleratorState._reset_state(reset_partial_state=True)  # the next run may want another precision
