"""Tests with a pretended GPU: a student's step needs the memory of a plain LoRA's; teacher and path fit into it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gpu import CUDA, pretended, replace_tensors
from pretended.test_training_bytes import SETTINGS, attended
from torch import nn

from avatarctl.networks import kinds
from avatarctl.networks.attach import attach
from avatarctl.networks.dims import TRANSFORMER_1_3B
from avatarctl.networks.lora_switch import lora_off
from avatarctl.sampling.guidance import cfg
from avatarctl.settings.train import TrainSettings
from avatarctl.training.distill_teacher import Scene
from avatarctl.training.draws import Draws
from avatarctl.training.loss import Batch, predict

FRAMES, ROWS, COLUMNS = 21, 64, 64  # 512x512
STEPS = 8


def batch_of() -> Batch:
    dims = TRANSFORMER_1_3B

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(*shape, device=CUDA)

    mask = empty(1, FRAMES, ROWS, COLUMNS)
    latents, condition = empty(1, 16, FRAMES, ROWS, COLUMNS), empty(1, 20, FRAMES, ROWS, COLUMNS)
    return Batch(
        ("clip",), latents, condition, empty(1, 257, dims.clip), empty(1, 512, dims.text), empty(512, dims.text),
        empty(1, 161, dims.w2v), mask, mask, empty(1, FRAMES),
    )  # fmt: skip


def test_teacher_and_path_need_less_than_the_student(monkeypatch: pytest.MonkeyPatch) -> None:
    settings, dims = TrainSettings(**SETTINGS), TRANSFORMER_1_3B.with_(layers=6)
    with pretended(attention=False) as counted:
        monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attended)
        model = kinds.build_transformer(dims)
        attach(model, settings.modes, settings.rank, settings.alpha, 0.0)
        replace_tensors(model, lambda t: t.float() if t.requires_grad else t.to(torch.bfloat16))
        model.to(CUDA).train()
        batch, sigma = batch_of(), torch.empty(1, device=CUDA)
        before = counted.live
        counted.reset()
        scene = Scene(model, batch, True)
        path = [torch.empty_like(batch.latents) for _ in range(STEPS)]  # what the student's step has beside it
        kept = counted.live - before
        with lora_off(model):
            for inputs in cfg(5.0, 3.0):
                scene.predict(path[0], sigma, inputs)
        teacher = counted.peak - before
        del scene
        assert counted.live - before == pytest.approx(kept, abs=1 << 20), "nothing of it is left"
        counted.reset()
        inputs_of: list[tuple[nn.Module, Any]] = []
        hooks = [block.register_forward_pre_hook(lambda b, args: inputs_of.append((b, args))) for block in model.blocks]
        none = torch.zeros(1, dtype=torch.bool, device=CUDA)
        predict(model, batch, path[0], Draws(path[0], sigma, none, none, none, none, False))
        for hook in hooks:
            hook.remove()
        with torch.enable_grad():  # no backward pass can be pretended: each block computes again for it
            for block, arguments in reversed(inputs_of):
                out = block(*arguments)
                del out
        student = counted.peak - before
    assert teacher < student
    assert kept < 0.03 * (student + before), "the path's states"
