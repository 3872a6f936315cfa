"""The processes of a run: what the launcher's environment and the settings ask of accelerate, and how long they wait."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from functools import lru_cache
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, GradientAccumulationPlugin, InitProcessGroupKwargs

from avatarctl.errors import DeviceError, ProcessLost, UsageError
from avatarctl.settings.train import TrainSettings

TIMEOUT = timedelta(minutes=10)  # of what a step exchanges: a process that died is noticed
PATIENCE = timedelta(hours=12)  # of waits for a file, a video or a checkpoint that another process writes


@contextmanager
def accelerated(settings: TrainSettings) -> Iterator[Accelerator]:
    """Return the accelerator that the launcher's environment and the settings ask for.

    It leaves number formats alone: passes are narrowed by :func:`narrowed` in every kind of run, so that what is sharded has
    the numbers of one process: weights, gradients and their sums in float32, and the time path too.
    """
    cpu = settings.device == "cpu" or not torch.cuda.is_available()
    if cpu and settings.device.startswith("cuda"):
        raise DeviceError(f"device: got {settings.device}, but no GPU is usable", "avatarctl doctor says why")
    if settings.device.startswith("cuda:") and "LOCAL_RANK" not in os.environ:
        torch.cuda.set_device(settings.device)
    accelerator = Accelerator(
        cpu=cpu,
        mixed_precision="no",
        # As a plugin: a number alone gives way to what a launcher's file says.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=settings.accumulate),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=TIMEOUT)],
    )
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        config = accelerator.state.deepspeed_plugin.deepspeed_config
        config["train_micro_batch_size_per_gpu"] = settings.batch_size
        config["gradient_clipping"] = settings.clip_norm
        config["gradient_accumulation_steps"] = settings.accumulate
        if config.get("zero_optimization", {}).get("stage", 0) > 2:
            raise UsageError(
                "DeepSpeed: got stage 3, expected stage 2",
                "use FSDP2 to shard weights: avatarctl presets copy fsdp2",
            )
    if accelerator.distributed_type == DistributedType.FSDP:
        from torch.distributed.fsdp import MixedPrecisionPolicy

        plugin = accelerator.state.fsdp_plugin
        if plugin.fsdp_version != 2:
            raise UsageError("FSDP: got version 1, expected version 2", "set fsdp_version: 2 in the launcher's file")
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module")  # nothing changes its output in place
        plugin.cpu_ram_efficient_loading = True  # the first process loads, and sends the others their shares
        plugin.mixed_precision_policy = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
    try:
        if accelerator.num_processes > 1:
            _patient_group()  # all processes make it together
        yield accelerator
        accelerator.end_training()
    except RuntimeError as error:
        if accelerator.num_processes > 1 and _is_of_the_others(error):
            raise ProcessLost(
                "another process of this run ended", "see what it said; the same command resumes"
            ) from error
        raise
    finally:
        if accelerator.num_processes == 1:
            AcceleratorState._reset_state(reset_partial_state=True)  # the next run may be another one


def _is_of_the_others(error: RuntimeError) -> bool:
    """Return whether an exchange with other processes failed; gloo has no class of its own for that."""
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)


def is_narrow(settings: TrainSettings, device: torch.device) -> bool:
    """Return whether passes compute in bfloat16."""
    return settings.dtype == "bfloat16" or (settings.dtype == "auto" and device.type == "cuda")


def narrowed(settings: TrainSettings, device: torch.device) -> AbstractContextManager[Any]:
    """Return the context in which passes compute in the number format of the settings."""
    return torch.autocast(device.type, torch.bfloat16, enabled=is_narrow(settings, device))


@lru_cache(maxsize=1)
def _patient_group() -> Any:
    return torch.distributed.new_group(backend="gloo", timeout=PATIENCE)


def wait_for_all(accelerator: Accelerator) -> None:
    """Wait until every process is here, for as long as one of them may write, encode or render."""
    if accelerator.num_processes > 1:
        torch.distributed.barrier(_patient_group())
