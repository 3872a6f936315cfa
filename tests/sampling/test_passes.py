"""Tests with counted passes: those that a render is told of before are those that it runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import FRAMES, tiny_inputs, tiny_transformer

from avatarctl.sampling.denoise import WindowRequest, schedule
from avatarctl.sampling.guidance import scheme_of
from avatarctl.sampling.passes import noise_levels, passes_of
from avatarctl.sampling.predict import Conditions, Predictor
from avatarctl.sampling.windows import plan_windows
from avatarctl.settings.render import GuidancePass, RenderSettings

TABLE = (
    GuidancePass(text="positive", audio="window", tokens="adapter", weight=2.0),
    GuidancePass(text="positive", audio="zero", tokens="zero", weight=-0.5),
    GuidancePass(text="positive", audio="window", tokens="zero", weight=-0.5),  # the same pass
)


@pytest.mark.parametrize("kind", ["released", "textbook", "uniform"])
@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0, 8.5])
@pytest.mark.parametrize("steps", [1, 2, 7, 20, 50])
def test_noise_levels_are_those_of_the_schedule(steps: int, shift: float, kind: str) -> None:
    assert noise_levels(steps, shift, kind) == pytest.approx(
        [float(sigma) for sigma in schedule(steps, shift, kind).sigmas[:-1]], rel=1e-6
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"guidance": "native"},
        {"guidance": "none"},
        {"guidance": TABLE},
        {"guidance_interval": (0.3, 0.9)},
        {"guidance_reuse": 3},
        {"guidance_reuse": 2, "guidance_interval": (0.2, 0.95)},
        {"audio_scale": 3.0},  # as large as text_scale: two passes
        {"audio_scale": 1.0, "text_scale": 1.0},
        {"schedule": "textbook", "guidance_interval": (0.5, 1.0)},
        {"schedule": "uniform", "guidance_interval": (0, 0.9)},
    ],
    ids=str,
)
@torch.no_grad()
def test_the_passes_that_are_counted_are_run(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    render = RenderSettings(steps=8, window=FRAMES, overlap=2, **settings)
    model, inputs = tiny_transformer(), tiny_inputs()
    ran: list[tuple[bool, bool]] = []  # with audio, with the adapter
    forward = type(model).forward

    def noted(self: Any, **arguments: Any) -> Any:
        states, tokens = arguments["audio_states"], arguments["audio_tokens"]
        ran.append((states is not None or tokens is not None, states is not None and tokens is None))
        return forward(self, **arguments)

    monkeypatch.setattr(type(model), "forward", noted)
    text = inputs["encoder_hidden_states"]
    image, condition = inputs["encoder_hidden_states_image"], inputs["condition"]
    conditions = Conditions(text, text.flip(1), image, condition, lambda _: inputs["audio_states"])
    levels = schedule(render.steps, render.shift, render.schedule)
    predict = Predictor(
        model, conditions, scheme_of(render), levels, FRAMES, render.guidance_interval, render.guidance_reuse
    )
    window = plan_windows(16000 * 2, render.fps, FRAMES, 2).get(0)
    residual = None
    for step in range(render.steps):
        [(_, residual)] = predict([WindowRequest(window, step, inputs["hidden_states"], residual)])
    expected = passes_of(render)
    assert len(ran) == expected.total
    assert sum(heard for heard, _ in ran) == expected.hearing
    assert sum(adapted for _, adapted in ran) == expected.adapting
