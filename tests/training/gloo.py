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

FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "StableAvatarTransformerBlock",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
    "FSDP_OFFLOAD_PARAMS": "false",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    "ACCELERATE_MIXED_PRECISION": "bf16",
}
ZERO = {
    "DS_ACCELERATOR": "cpu",
    "ACCELERATE_USE_DEEPSPEED": "true",
    "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2",
    "ACCELERATE_GRADIENT_CLIPPING": "0.05",
    "ACCELERATE_MIXED_PRECISION": "bf16",
    "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "none",
    "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "none",
    "ACCELERATE_DEEPSPEED_ZERO3_INIT": "false",
    "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": "false",
}


def over_gloo() -> None:
    """Let the CPU's processes be devices that accelerate shards on."""
    state: Any = accelerate.state.PartialState
    begin, real = state.__init__, processes.Accelerator

    def device(self: Any) -> None:
        self.device = torch.device("cpu")

    def on_a_device(self: Any, cpu: bool = False, **more: Any) -> None:
        begin(self, False, **more)

    def accelerator(**given: Any) -> Any:
        return real(**{**given, "cpu": False})

    state._prepare_backend = lambda self, *_: ("gloo", DistributedType.MULTI_XPU)
    state.set_device, state.__init__ = device, on_a_device
    processes.Accelerator = accelerator  # type: ignore[assignment, misc]


if __name__ == "__main__":
    over_gloo()
    sys.argv[0] = "avatarctl"
    sys.exit(main())
