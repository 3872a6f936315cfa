"""Tests with sizes: the calculation of training memory counts what small models really keep."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import TINY, tiny_transformer
from torch.profiler import ProfilerActivity, profile

from avatarctl.networks.attach import attach
from avatarctl.networks.dims import TRANSFORMER_1_3B, TransformerDims
from avatarctl.settings.presets import load
from avatarctl.settings.train import TrainSettings
from avatarctl.training.memory import activation_bytes, estimate, trained_parameters

LORA: dict[str, Any] = {"attention": "lora", "feed_forward": "lora", "audio": "lora", "norms": "frozen"}


def peak_of_a_pass(dims: TransformerDims, settings: TrainSettings, size: int, narrow: bool) -> int:
    """Return the highest sum of allocated bytes over a way there and back."""
    model = tiny_transformer(dims)
    attach(model, settings.modes, settings.rank, settings.alpha, 0.0)
    model.train().enable_gradient_checkpointing()
    if narrow:
        for parameter in model.parameters():
            parameter.data = parameter.data.to(torch.float32 if parameter.requires_grad else torch.bfloat16)
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    inputs = {
        "hidden_states": draw(1, dims.out_dim, 6, size, size),
        "timestep": torch.full((1,), 500.0),
        "encoder_hidden_states": draw(1, 9, dims.text),
        "encoder_hidden_states_image": draw(1, 17, dims.clip),
        "condition": draw(1, dims.in_dim - dims.out_dim, 6, size, size),
        "audio_states": draw(1, 41, dims.w2v),
    }
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=narrow):
            loss = model(**inputs).sample.float().square().mean()
        loss.backward()
    now = peak = 0
    results: Any = profiled.profiler
    events = [event for event in results.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize(("dim", "ffn", "layers", "rank"), [(32, 160, 3, 4), (64, 256, 10, 24)])
def test_activations_grow_with_tokens_as_calculated(dim: int, ffn: int, layers: int, rank: int, narrow: bool) -> None:
    dims = TINY.with_(dim=dim, ffn=ffn, layers=layers)
    settings = TrainSettings(**{**LORA, "rank": rank})
    small, large = 16, 32
    per_token = (peak_of_a_pass(dims, settings, large, narrow) - peak_of_a_pass(dims, settings, small, narrow)) / (
        6 * (large**2 - small**2) / 4
    )
    assert activation_bytes(dims, 1, settings, 2 if narrow else 4) == pytest.approx(per_token, rel=0.15)


@pytest.mark.parametrize(
    "modes",
    [
        {},
        LORA,
        {**LORA, "audio": "full", "rank": 7},
        {**LORA, "attention": "frozen"},
        {"embeddings": "full", "feed_forward": "frozen"},
        {**LORA, "embeddings": "lora", "rank": 5},
    ],
)
def test_what_trains_is_counted(modes: dict[str, Any]) -> None:
    settings = TrainSettings(**modes)
    for dims in (TINY, TINY.with_(vocal_hidden=40, layers=3)):
        model = tiny_transformer(dims)
        attach(model, settings.modes, settings.rank, settings.alpha, 0.0)
        counted = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        assert trained_parameters(dims, settings)[0] == counted


def test_a_person_fits_a_workstation_card() -> None:
    settings = TrainSettings(**load("person-1.3b", "lora").values)
    for width, height in ((480, 832), (512, 512)):
        needed = estimate(TRANSFORMER_1_3B, width, height, 21, settings, narrow=True, on_gpu=True)
        assert needed.peak < 12 * 2**30, needed.in_words()
        assert needed.peak > 4 * 2**30
