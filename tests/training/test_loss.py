"""Tests with small batches: the loss is the flow-matching error with the weights of the masks, against plain sums."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import tiny_transformer
from training.conftest import random_sample

from avatarctl.settings.train import TrainSettings
from avatarctl.training.draws import Draws, draw
from avatarctl.training.loss import Batch, error_weights, flow_loss, predict, weighted_error


def batch_of(count: int = 2) -> Batch:
    samples = [random_sample(f"clip{i}x-0").tensors for i in range(count)]
    together = {name: torch.stack([each[name] for each in samples]) for name in samples[0]}
    return Batch(
        keys=tuple(f"clip{i}-0" for i in range(count)),
        latents=together["latents"],
        condition=together["condition"],
        image_tokens=together["image_tokens"],
        text=together["text"],
        null_text=torch.randn(4, together["text"].shape[-1], generator=torch.Generator().manual_seed(3)),
        speech=together["speech"],
        face=together["face_mask"],
        lips=together["lip_mask"],
        valid=torch.ones(count, together["latents"].shape[2]),
    )


def draws_of(batch: Batch, settings: TrainSettings, **changes: Any) -> Draws:
    drawn = draw(settings, batch.latents.shape, [(0, 0, i) for i in range(len(batch.keys))])
    nothing = torch.zeros(len(batch.keys), dtype=torch.bool)
    plain = {"no_audio": nothing, "no_tokens": nothing, "no_text": nothing, "clip_audio": False}
    return replace(drawn, **{**plain, **changes})


def test_the_loss_is_the_weighted_error_of_the_velocity() -> None:
    settings = TrainSettings(face_weight=2.0, lip_weight=3.0)
    batch = batch_of()
    draws = draws_of(batch, settings, branch=torch.zeros(2, dtype=torch.long))
    model = tiny_transformer()
    loss, errors = flow_loss(model, batch, draws, settings)
    for i in range(2):
        sigma = draws.sigma[i]
        out = model(
            hidden_states=((1 - sigma) * batch.latents[i] + sigma * draws.noise[i])[None],
            timestep=sigma[None] * 1000,
            encoder_hidden_states=batch.text[i][None],
            encoder_hidden_states_image=batch.image_tokens[i][None],
            condition=batch.condition[i][None],
            audio_states=batch.speech[i][None],
        ).sample[0]
        error = (out - (draws.noise[i] - batch.latents[i])) ** 2
        weight = 1 + 2 * batch.face[i] + 3 * batch.lips[i]
        assert float(errors[i]) == pytest.approx(float((error * weight).mean()), rel=1e-4)
    assert float(loss) == pytest.approx(float(errors.mean()), rel=1e-6)


def test_mask_only_errors_are_normalised_or_as_released() -> None:
    batch = batch_of(3)
    draws = draws_of(batch, TrainSettings(), branch=torch.tensor([0, 1, 2]))
    weights = error_weights(batch, draws, TrainSettings())
    assert float(weights[0].mean()) == pytest.approx(1 + float(batch.face[0].mean() + batch.lips[0].mean()))
    for i, mask in ((1, batch.face[1]), (2, batch.lips[2])):
        assert float(weights[i].mean()) == pytest.approx(1.0)
        assert torch.allclose(weights[i, 0], mask / mask.mean())
    released = error_weights(batch, draws, TrainSettings(normalise_masks=False))
    assert torch.equal(released[1, 0], batch.face[1])
    assert torch.equal(released[2, 0], batch.lips[2])


def test_an_empty_mask_counts_nothing_and_breaks_nothing() -> None:
    batch = replace(batch_of(), lips=torch.zeros(2, 3, 4, 6))
    weights = error_weights(batch, draws_of(batch, TrainSettings(), branch=torch.tensor([2, 2])), TrainSettings())
    assert torch.equal(weights, torch.zeros_like(weights))


def test_frames_that_fill_up_count_nothing() -> None:
    settings = TrainSettings()
    batch = replace(batch_of(), valid=torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]))
    draws = draws_of(batch, settings, branch=torch.tensor([1, 1]))
    weights = error_weights(batch, draws, settings)
    assert float(weights[0, 0, 2].sum()) == 0
    assert float(weights[0].mean()) == pytest.approx(1.0)
    broken = batch.latents.clone()
    broken[0, :, 2] += 100
    model = tiny_transformer()
    target = draws.noise - batch.latents
    predicted = predict(model, batch, draws.noise, draws)
    same = [weighted_error(predicted, draws.noise - latents, weights, 0.25) for latents in (batch.latents, broken)]
    assert torch.equal(same[0], same[1])
    assert not torch.equal(target, draws.noise - broken)


def test_motion_compares_neighbouring_latent_frames() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted, target = (torch.randn(1, 2, 3, 2, 2, generator=generator) for _ in range(2))
    ones = torch.ones(1, 1, 3, 2, 2)
    shifted = weighted_error(target + 1.5, target, ones, 0.25)  # a constant error moves nothing
    assert float(shifted) == pytest.approx(0.75 * 1.5**2)
    error, change = predicted - target, (predicted - target)[:, :, 1:] - (predicted - target)[:, :, :-1]
    expected = 0.75 * float((error**2).mean()) + 0.25 * float((change**2).mean())
    assert float(weighted_error(predicted, target, ones, 0.25)) == pytest.approx(expected, rel=1e-5)


def test_dropped_conditions_reach_the_model_as_nulls() -> None:
    settings, batch, model = TrainSettings(), batch_of(), tiny_transformer()
    yes = torch.tensor([True, False])
    draws = draws_of(batch, settings)
    plain = predict(model, batch, draws.noise, draws)

    def changed(**what: Any) -> torch.Tensor:
        return predict(model, batch, draws.noise, replace(draws, **what))

    silent = predict(model, replace(batch, speech=torch.zeros_like(batch.speech)), draws.noise, draws)
    null = batch.null_text[None].expand(2, -1, -1)
    nulled = predict(model, replace(batch, text=null), draws.noise, draws)
    for name, reference in (("no_audio", silent), ("no_text", nulled)):
        out = changed(**{name: yes})
        torch.testing.assert_close(out[0], reference[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(out[1], plain[1], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(plain[0], reference[0], atol=1e-3)
    without = model(
        hidden_states=draws.noise[:1],
        timestep=draws.sigma[:1] * 1000,
        encoder_hidden_states=batch.text[:1],
        encoder_hidden_states_image=batch.image_tokens[:1],
        condition=batch.condition[:1],
    ).sample
    out = changed(no_tokens=yes)
    torch.testing.assert_close(out[:1], without, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out[1], plain[1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(changed(clip_audio=True), plain, atol=1e-3)
