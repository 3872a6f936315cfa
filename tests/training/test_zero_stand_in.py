"""Tests with stand-ins for DeepSpeed, which has no wheels: what ZeRO-2 is told, and states that come back as they were.

test_sharded.py runs DeepSpeed itself where it is installed.
"""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType

from avatarctl.errors import UsageError
from avatarctl.settings.train import TrainSettings
from avatarctl.training import processes
from avatarctl.training.sharded import restore_zero, zero_states


def plugin_of(monkeypatch: pytest.MonkeyPatch, stage: int) -> dict[str, Any]:
    """Let accelerate find a launcher that asks for DeepSpeed; return the configuration that DeepSpeed would be given."""
    config: dict[str, Any] = {"zero_optimization": {"stage": stage}, "gradient_clipping": 0.05}
    config["gradient_accumulation_steps"] = "auto"

    class Stand:
        distributed_type = DistributedType.DEEPSPEED
        num_processes = 1
        state = SimpleNamespace(deepspeed_plugin=SimpleNamespace(deepspeed_config=config))

        def __init__(self, **_: Any) -> None:
            pass

        def end_training(self) -> None:
            pass

    monkeypatch.setattr(processes, "Accelerator", Stand)
    return config


def test_zero_clips_and_accumulates_as_the_run_says(monkeypatch: pytest.MonkeyPatch) -> None:
    config = plugin_of(monkeypatch, 2)
    with processes.accelerated(TrainSettings(device="cpu", clip_norm=1.5, accumulate=3, batch_size=2)):
        asked = {name: value for name, value in config.items() if name != "zero_optimization"}
    expected = {"gradient_clipping": 1.5, "gradient_accumulation_steps": 3, "train_micro_batch_size_per_gpu": 2}
    assert asked == expected  # and no number format: weights and exports are float32


def test_stage_three_is_refused_with_what_shards_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin_of(monkeypatch, 3)
    with (
        pytest.raises(UsageError, match="got stage 3, expected stage 2") as ended,
        processes.accelerated(TrainSettings()),
    ):
        pass
    assert "avatarctl presets copy fsdp2" in ended.value.hint


class Zero:
    """An optimizer of one flat share, as ZeRO keeps it, and where each parameter's numbers lie in it."""

    def __init__(self, parameters: list[torch.nn.Parameter]) -> None:
        flat = torch.cat([parameter.detach().flatten() for parameter in parameters]).requires_grad_()
        self.single_partition_of_fp32_groups = [flat]
        self.optimizer = torch.optim.AdamW([flat], lr=0.1)
        self.places: dict[int, slice] = {}
        begin = 0
        for parameter in parameters:
            self.places[id(parameter)] = slice(begin, begin + parameter.numel())
            begin += parameter.numel()
        self.linked = 0

    def _lazy_init_hp_params_optimizer_state(self) -> None:
        self.linked += 1

    def step(self, seed: int) -> None:
        [flat] = self.single_partition_of_fp32_groups
        flat.grad = torch.randn(flat.shape, generator=torch.Generator().manual_seed(seed))
        self.optimizer.step()


def test_states_of_a_share_come_back_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = [torch.nn.Parameter(torch.ones(shape)) for shape in ((2, 3), (4,))]
    first, second = Zero(parameters), Zero(parameters)
    now = [first]

    def get(parameter: torch.nn.Parameter, name: str) -> torch.Tensor:
        [flat] = now[0].single_partition_of_fp32_groups
        return now[0].optimizer.state[flat][name][now[0].places[id(parameter)]].view(parameter.shape)

    def put(parameter: torch.nn.Parameter, value: torch.Tensor, name: str) -> None:
        get(parameter, name).copy_(value)

    utils = ModuleType("deepspeed.utils")
    utils.safe_get_full_optimizer_state, utils.safe_set_full_optimizer_state = get, put  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "deepspeed", ModuleType("deepspeed"))
    monkeypatch.setitem(sys.modules, "deepspeed.utils", utils)
    assert zero_states(first, parameters) == ({}, {})  # before the first step
    for seed in range(3):
        first.step(seed)
    states, plain = zero_states(first, parameters)
    assert not plain and first.linked == 1
    assert [tuple(states[place]["exp_avg"].shape) for place in (0, 1)] == [(2, 3), (4,)]
    assert float(states[0]["step"]) == 3 and states[0]["step"].data_ptr() != states[1]["step"].data_ptr()
    second.single_partition_of_fp32_groups[0].data.copy_(first.single_partition_of_fp32_groups[0].data)
    now[0] = second
    restore_zero(second, parameters, states)
    for optimizer in (first, second):
        optimizer.step(9)
    assert torch.equal(first.single_partition_of_fp32_groups[0], second.single_partition_of_fp32_groups[0])
