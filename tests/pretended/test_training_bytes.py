"""Tests with a pretended GPU: bytes of a LoRA's training step with and without block swap are those of the calculation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gpu import CUDA, pretended, replace_tensors
from torch import nn

from avatarctl.networks import kinds
from avatarctl.networks.attach import attach
from avatarctl.networks.block_swap import BlockSwap
from avatarctl.networks.dims import TRANSFORMER_1_3B, TRANSFORMER_14B, TransformerDims
from avatarctl.settings.train import TrainSettings
from avatarctl.training.memory import SWAP_RESIDENT, estimate, frozen_block_bytes

SIZE, FRAMES = (256, 256), 5
SETTINGS: dict[str, Any] = {
    "attention": "lora",
    "feed_forward": "lora",
    "audio": "lora",
    "norms": "frozen",
    "rank": 16,
    "alpha": 16.0,
}


def attended(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **_: Any) -> torch.Tensor:
    """Stand for attention: its output's shape, and gradients to everything that it reads."""
    return query + (key.mean() + value.mean())


def step_bytes(dims: TransformerDims, swap: int, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int, int]:
    """Return peak of a step, bytes on the device before it, and bytes sent there during it."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor, *_: tensor)
    settings = TrainSettings(**SETTINGS, block_swap=swap)
    with pretended(attention=False) as counted:
        monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attended)
        model = kinds.build_transformer(dims)
        attach(model, settings.modes, settings.rank, settings.alpha, 0.0)
        replace_tensors(model, lambda t: t.float() if t.requires_grad else t.to(torch.bfloat16))
        if swap:
            BlockSwap(model.blocks, swap, CUDA)
        model.to(CUDA).train()
        rows, columns = SIZE[1] // 8, SIZE[0] // 8
        inputs = {
            "hidden_states": torch.empty(1, dims.out_dim, FRAMES, rows, columns, device=CUDA),
            "timestep": torch.empty(1, device=CUDA),
            "encoder_hidden_states": torch.empty(1, 9, dims.text, device=CUDA),
            "encoder_hidden_states_image": torch.empty(1, 257, dims.clip, device=CUDA),
            "condition": torch.empty(1, dims.in_dim - dims.out_dim, FRAMES, rows, columns, device=CUDA),
            "audio_states": torch.empty(1, 41, dims.w2v, device=CUDA),
        }
        kept: list[tuple[nn.Module, Any]] = []
        hooks = [
            block.register_forward_pre_hook(lambda block, args: kept.append((block, args))) for block in model.blocks
        ]
        before = counted.live
        counted.reset()
        model(**inputs, return_dict=False)
        for hook in hooks:
            hook.remove()
        # No backward pass can be pretended: what of it matters here is that each block computes again, the last one first,
        # and that autograd keeps what it needs of one block at a time.
        with torch.enable_grad():
            for block, arguments in reversed(kept):
                out = block(*arguments)
                assert out.requires_grad
                del out
        return counted.peak, before, counted.moved["to device"]


def check(dims: TransformerDims, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = TrainSettings(**SETTINGS)
    block = frozen_block_bytes(dims, settings, 2)
    plain, stored, _ = step_bytes(dims, 0, monkeypatch)
    swapped, left, sent = step_bytes(dims, dims.layers, monkeypatch)
    # Before a step nothing of the blocks is there; within it the one that computes and the next.
    assert left == pytest.approx(stored - dims.layers * block, rel=0.02)
    saved = (dims.layers - SWAP_RESIDENT) * block
    assert plain - swapped == pytest.approx(saved, rel=0.1)
    less = settings.model_copy(update={"block_swap": dims.layers})
    calculated = [estimate(dims, *SIZE, FRAMES, each, True, on_gpu=False).peak for each in (settings, less)]
    assert calculated[0] - calculated[1] == saved
    # Every block's weights go there twice, and once more where the way turns; none comes back.
    assert sent == pytest.approx(2 * dims.layers * block, rel=0.25)


@pytest.mark.parametrize("dims", [TRANSFORMER_1_3B, TRANSFORMER_14B], ids=["1.3B", "14B"])
def test_block_swap_leaves_two_blocks_on_the_device(dims: TransformerDims, monkeypatch: pytest.MonkeyPatch) -> None:
    check(dims.with_(layers=6), monkeypatch)


@pytest.mark.long
@pytest.mark.parametrize("dims", [TRANSFORMER_1_3B, TRANSFORMER_14B], ids=["1.3B", "14B"])
def test_block_swap_of_the_whole_network(dims: TransformerDims, monkeypatch: pytest.MonkeyPatch) -> None:
    check(dims, monkeypatch)


def test_linear_layers_of_a_block_are_counted() -> None:
    with torch.device("meta"):
        model = kinds.build_transformer(TRANSFORMER_1_3B.with_(layers=1))
    weights = sum(m.weight.numel() for m in model.blocks.modules() if isinstance(m, nn.Linear))
    settings = TrainSettings(**SETTINGS)
    assert frozen_block_bytes(TRANSFORMER_1_3B, settings, 2) == 2 * weights
