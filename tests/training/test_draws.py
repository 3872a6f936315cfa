"""Tests with seeds: draws depend on them alone and have the probabilities that the settings say."""

from __future__ import annotations

import pytest
import torch

from avatarctl.sampling.denoise import schedule
from avatarctl.settings.train import TrainSettings
from avatarctl.training.draws import BRANCHES, draw, noise_levels

SHAPE = (16, 3, 4, 4)


def many(settings: TrainSettings, count: int = 4000) -> list[torch.Tensor]:
    drawn = draw(settings, (count, 1, 1, 1, 1), [(0, step, 0) for step in range(count)])
    return [drawn.sigma, drawn.branch, drawn.no_audio, drawn.no_tokens, drawn.no_text]


def test_draws_depend_on_seed_step_and_place_alone() -> None:
    settings = TrainSettings()
    first = draw(settings, (2, *SHAPE), [(0, 5, 0), (0, 5, 1)])
    alone = draw(settings, (1, *SHAPE), [(0, 5, 1)])
    assert torch.equal(first.noise[1], alone.noise[0])
    assert first.sigma[1] == alone.sigma[0]
    names = [(0, 5, 0), (0, 5, 1), (0, 6, 0), (1, 5, 0)]
    drawn = draw(settings, (4, *SHAPE), names)
    assert len({float(noise.sum()) for noise in drawn.noise}) == 4
    assert len(set(drawn.sigma.tolist())) == 4


def test_a_setting_moves_no_other_draw() -> None:
    plain, changed = (
        draw(TrainSettings(**settings), (8, *SHAPE), [(0, 0, i) for i in range(8)])
        for settings in ({}, {"drop_audio": 0.9, "time": "logit-normal", "clip_audio": 0.0})
    )
    assert torch.equal(plain.noise, changed.noise)
    assert torch.equal(plain.branch, changed.branch)
    assert torch.equal(plain.no_tokens, changed.no_tokens)
    assert not torch.equal(plain.no_audio, changed.no_audio)


def test_probabilities() -> None:
    _, branch, no_audio, no_tokens, no_text = many(
        TrainSettings(whole_probability=0.4, face_probability=0.1, drop_audio=0.2, drop_tokens=0.3, drop_text=0.05)
    )
    shares = torch.bincount(branch, minlength=len(BRANCHES)).double() / len(branch)
    assert shares.tolist() == pytest.approx([0.4, 0.1, 0.5], abs=0.03)
    drops = [float(each.double().mean()) for each in (no_audio, no_tokens, no_text)]
    assert drops == pytest.approx([0.2, 0.3, 0.05], abs=0.03)
    clip = sum(draw(TrainSettings(clip_audio=0.3), (1, 1, 1, 1, 1), [(0, i, 0)]).clip_audio for i in range(1000))
    assert clip / 1000 == pytest.approx(0.3, abs=0.05)


def test_noise_levels_are_those_of_the_shifted_scheduler() -> None:
    levels = noise_levels(5.0)
    time = torch.arange(1000, 0, -1) / 1000
    torch.testing.assert_close(levels, 5 * time / (1 + 4 * time))
    # Every level of a textbook schedule at generation lies within what was trained.
    sigmas = schedule(50, 5.0, "textbook").sigmas[:-1]
    assert levels.min() <= sigmas.min() and sigmas.max() <= levels.max()


def test_uniform_time_is_shifted_to_high_noise() -> None:
    sigma = many(TrainSettings(shift=5.0))[0]
    # Half of all uniform times lie above 1/2, which the shift of 5 moves to 5/6.
    assert float(sigma.median()) == pytest.approx(5 / 6, abs=0.02)
    assert float(many(TrainSettings(shift=1.0))[0].median()) == pytest.approx(0.5, abs=0.03)


def test_logit_normal_time() -> None:
    settings = {"time": "logit-normal", "shift": 1.0}
    middle = many(TrainSettings(**settings))[0]
    assert float(middle.median()) == pytest.approx(0.5, abs=0.03)
    assert float(((middle > 0.27) & (middle < 0.73)).double().mean()) == pytest.approx(0.68, abs=0.03)
    noisy = many(TrainSettings(**settings, logit_mean=2.0))[0]
    assert float(noisy.median()) == pytest.approx(0.88, abs=0.03)
