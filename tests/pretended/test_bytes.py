"""Tests with a pretended GPU at full width: peaks are those of the calculation, and little moves between the memories."""

from __future__ import annotations

import gc

import pytest
import torch
from gpu import CUDA, Bytes, pretended
from setting import MODES, Steps, loaded

from avatarctl.networks import kinds, memory
from avatarctl.networks import vae as V
from avatarctl.networks.dims import TRANSFORMER_1_3B, WAN_VAE, WAV2VEC2_BASE, TransformerDims

FRAMES = 21
MB = 1 << 20


def measure(dims: TransformerDims, mode: str, float8: bool, size: tuple[int, int]) -> dict[str, float]:
    """Return the peak and the bytes moved of a window step and of a decoded latent frame, with everything resident."""
    with pretended() as counted:
        steps = Steps(dims, mode, float8, size, FRAMES)
        vae = loaded(kinds.build_vae(WAN_VAE), steps.residency, "vae")
        speech = loaded(kinds.build_speech_encoder(WAV2VEC2_BASE), steps.residency, "speech encoder")
        predict = steps.predictor()
        predict(steps.requests(0))
        found = {"first step": counted.peak, **moved(counted)}
        predict(steps.requests(1))
        found |= {f"step {name}": size for name, size in moved(counted).items()}
        found["step peak"] = counted.peak
        counted.reset()
        stream = V.DecodeStream(steps.residency.use(vae))
        for _ in range(2):
            stream.push(torch.randn(1, 16, 1, steps.rows, steps.columns))
        counted.moved.clear()
        assert stream.push(torch.randn(1, 16, 1, steps.rows, steps.columns)).device == CUDA
        found |= {"decode peak": counted.peak, "decode to device": counted.moved["to device"]}
        del speech
    return found


def moved(counted: Bytes) -> dict[str, float]:
    gc.collect()
    found = dict(counted.moved)
    counted.reset()
    return found


def check(dims: TransformerDims, mode: str, float8: bool, size: tuple[int, int]) -> None:
    found = measure(dims, mode, float8, size)
    peak = max(found["step peak"], found["decode peak"])
    calculated = memory.estimate(dims, *size, FRAMES, mode, 2, float8, on_gpu=False).peak
    assert 0.9 < calculated / peak < 1.1, (mode, float8, calculated / MB, {k: v / MB for k, v in found.items()})
    # A window's later steps send its latents alone; streamed modes also the weights, once per pass.
    latents = 16 * FRAMES * (size[0] // 8) * (size[1] // 8) * 4
    weights = memory.transformer_bytes(dims, 2, float8)
    streamed = {"full": 0, "model": 0, "group": 3 * weights, "sequential": 3.2 * weights}[mode]
    assert latents <= found["step to device"] <= streamed + latents, (mode, found["step to device"] / MB)
    assert found["step to memory"] == latents, "the guided velocity comes back, once, and no weights"
    assert found["decode to device"] < 2 * MB, "the decoder is there"


@pytest.mark.parametrize("mode", MODES)
def test_two_layers_at_full_width(mode: str) -> None:
    check(TRANSFORMER_1_3B.with_(layers=2), mode, False, (512, 512))


def test_float8_at_full_width() -> None:
    check(TRANSFORMER_1_3B.with_(layers=2), "full", True, (512, 512))


@pytest.mark.long
@pytest.mark.parametrize("size", [(512, 512), (480, 832)], ids=str)
@pytest.mark.parametrize("float8", [False, True], ids=["same", "float8"])
@pytest.mark.parametrize("mode", MODES)
def test_the_whole_network(mode: str, float8: bool, size: tuple[int, int]) -> None:
    check(TRANSFORMER_1_3B, mode, float8, size)
