"""Test helper: run the command line under FSDP2 or DeepSpeed with CPU processes over gloo, which accelerate has no launcher for.

Accelerate's state is told that these are devices of a kind that it shards on; everything else is what a run on GPUs uses.
"""

from __future__ import annotations

import sys
from typing import Any

import accelerate.state
import torch
from accelerate.utils import DistributedType

from avatarctl.cli import main
from avatarctl.training import processes

State: Any = accelerate.state.PartialState
begin, real = State.__init__, processes.Accelerator


def backend(self: Any, *_: Any) -> tuple[str, DistributedType]:
    return "gloo", DistributedType.MULTI_XPU


def device(self: Any) -> None:
    self.device = torch.device("cpu")


def on_a_device(self: Any, cpu: bool = False, **more: Any) -> None:
    begin(self, False, **more)


def accelerator(**given: Any) -> Any:
    return real(**{**given, "cpu": False})


if __name__ == "__main__":
    State._prepare_backend, State.set_device, State.__init__ = backend, device, on_a_device
    processes.Accelerator = accelerator  # type: ignore[assignment, misc]
    sys.argv[0] = "avatarctl"
    sys.exit(main())
