"""Tests with sizes: the memory calculation counts what the networks really have and allocate."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from golden.recorded import read, shipped
from live import LiveBytes
from tiny import TINY, tiny_inputs, tiny_transformer

from avatarctl.networks import checkpoints as c
from avatarctl.networks import kinds
from avatarctl.networks.dims import CLIP_VIT_H14, TRANSFORMER_1_3B, TRANSFORMER_14B, UMT5_XXL, WAN_VAE, WAV2VEC2_BASE
from avatarctl.networks.memory import (
    DECODER_BYTES_PER_PIXEL,
    PARAMETERS,
    estimate,
    latent_tokens,
    pass_bytes,
    transformer_parameters,
)
from avatarctl.networks.vae import decode_stream

RELEASED = json.loads((Path(__file__).parents[1] / "golden" / "data" / "checkpoint_keys.json").read_text())


@pytest.mark.parametrize(
    ("dims", "file"),
    [
        (TRANSFORMER_1_3B, "StableAvatar-1.3B/transformer3d-square.pt"),
        (TRANSFORMER_14B, "StableAvatar-14B (trained by the user)"),
    ],
)
def test_parameters_of_the_released_files(dims: object, file: str) -> None:
    assert transformer_parameters(dims) == sum(math.prod(shape) for shape in RELEASED[file].values())


def test_parameters_of_any_size() -> None:
    for dims in (TINY, TINY.with_(vocal_hidden=32, layers=5, in_dim=20)):
        assert transformer_parameters(dims) == sum(p.numel() for p in kinds.build_transformer(dims).parameters())
    config = read(shipped("transformer")).config
    dims = c.TransformerDims.parse(config)
    assert transformer_parameters(dims) == sum(math.prod(shape) for shape in config["weights"].values())


def test_parameters_of_the_other_networks() -> None:
    networks = (
        (c.VAE, WAN_VAE),
        (c.TEXT_ENCODER, UMT5_XXL),
        (c.IMAGE_ENCODER, CLIP_VIT_H14),
        (c.SPEECH_ENCODER, WAV2VEC2_BASE),
    )
    for network, dims in networks:
        with c.init_empty_weights(include_buffers=False):
            model = network.build(dims)
        tied = c._tied_names(model)
        count = sum(p.numel() for name, p in model.named_parameters(remove_duplicate=False) if name not in tied)
        assert PARAMETERS[network.kind] == count, network.kind


def test_activations_of_a_pass_are_near_the_calculation() -> None:
    dims = TINY.with_(dim=192, heads=2, ffn=1120, layers=2)
    model = tiny_transformer(dims)
    inputs = tiny_inputs(dims)
    inputs["hidden_states"] = torch.randn(1, dims.out_dim, 6, 24, 32)
    inputs["condition"] = torch.randn(1, dims.in_dim - dims.out_dim, 6, 24, 32)
    with torch.no_grad(), LiveBytes(model) as live:
        model(**inputs)
    calculated = pass_bytes(dims, latent_tokens(dims, 256, 192, 6), 4)
    assert 0.85 < live.peak / calculated < 1.15, (live.peak, calculated)


def test_decoder_allocates_what_the_calculation_says() -> None:
    vae = kinds.build_vae(WAN_VAE.with_(base_dim=32)).eval()
    with torch.no_grad(), LiveBytes(vae) as live:
        list(decode_stream(vae, torch.randn(1, 16, 3, 8, 8).split(1, dim=2)))
    assert live.peak / (64 * 64 * 4 * 32) == pytest.approx(DECODER_BYTES_PER_PIXEL[4] / 4, rel=0.05)


def test_modes_need_less_and_less() -> None:
    peaks = [
        estimate(TRANSFORMER_1_3B, 512, 512, memory=mode).peak for mode in ("full", "model", "group", "sequential")
    ]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[0] > peaks[2]
    float8 = estimate(TRANSFORMER_1_3B, 512, 512, float8=True)
    saved = estimate(TRANSFORMER_1_3B, 512, 512).weights - float8.weights
    assert 0.9 < saved / transformer_parameters(TRANSFORMER_1_3B) < 1, "linear layers alone"
