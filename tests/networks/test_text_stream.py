"""Tests with small umT5 encoders: streamed layer by layer they give the same bits and leave no memory behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from avatarctl.networks import checkpoints
from avatarctl.networks.dims import TextDims
from avatarctl.networks.kinds import build_text_encoder
from avatarctl.networks.text_stream import stream_text_encoder

CPU = torch.device("cpu")
IDS = torch.tensor([[1, 5, 7, 2, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 0, 0]])


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of bfloat16 weights, as released."""
    torch.manual_seed(0)
    model = build_text_encoder(TextDims(vocab=16, dim=32, dim_attn=32, dim_ffn=64, heads=2, layers=3))
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.2)
    return checkpoints.save_weights(model.to(torch.bfloat16), tmp_path_factory.mktemp("t5") / "text.safetensors")


def encoded(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, attention_mask=MASK).last_hidden_state


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_streamed_equals_whole_to_the_bit(stored: Path, dtype: torch.dtype) -> None:
    whole = encoded(checkpoints.load_text_encoder(stored, dtype=dtype))
    streamed = stream_text_encoder(checkpoints.load_text_encoder(stored, dtype=None), CPU, dtype)
    for _ in range(2):  # a second prompt finds the weights in their place
        assert torch.equal(encoded(streamed), whole) and whole.dtype == encoded(streamed).dtype
    assert {parameter.dtype for parameter in streamed.parameters()} == {torch.bfloat16}


def test_an_error_leaves_the_stored_weights_in_place(stored: Path) -> None:
    streamed = stream_text_encoder(checkpoints.load_text_encoder(stored, dtype=None), CPU, torch.float32)
    before = [parameter.data_ptr() for parameter in streamed.parameters()]
    streamed.encoder.block[1].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        encoded(streamed)
    assert [parameter.data_ptr() for parameter in streamed.parameters()] == before


MEASURE = """
import sys, threading, torch
from avatarctl.networks import checkpoints
from avatarctl.networks.text_stream import stream_text_encoder

def anonymous():
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("RssAnon"))

model = checkpoints.load_text_encoder(sys.argv[1], dtype=None)
ids = torch.zeros(1, 16, dtype=torch.long)
stream_text_encoder(model, torch.device("cpu"), torch.float32)
before, peak = anonymous(), 0
for block in model.encoder.block:
    def look(*_):
        global peak
        peak = max(peak, anonymous())
    block.layer[-1].register_forward_pre_hook(look)
with torch.no_grad():
    model(input_ids=ids, attention_mask=torch.ones_like(ids))
print(peak - before, anonymous() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to count anonymous memory")
def test_one_block_is_in_memory_and_nothing_after_it(tmp_path: Path) -> None:
    model = build_text_encoder(TextDims(vocab=16, dim=1024, dim_attn=256, dim_ffn=9216, heads=8, layers=4))
    path = checkpoints.save_weights(model.to(torch.bfloat16), tmp_path / "text.safetensors")
    block = 4 * sum(parameter.numel() for parameter in model.encoder.block[0].parameters())  # bytes in float32
    del model
    run = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True)
    peak, left = map(int, run.stdout.split())
    assert block * 0.9 < peak < block * 1.6, "of four blocks one is there"
    assert left < block * 0.3
