"""Tests with a tiny transformer: which passes a window step runs, with what, how often, and what they add up to."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from sampling.chaos import advance, join
from tiny import COLUMNS, FRAMES, ROWS, TINY, tiny_inputs, tiny_transformer
from variants import some

from avatarctl.sampling import guidance
from avatarctl.sampling.denoise import WindowRequest, schedule
from avatarctl.sampling.guidance import CONDITIONAL, Inputs, scheme_of
from avatarctl.sampling.noise import window_noise
from avatarctl.sampling.predict import (
    Conditions,
    Predictor,
    make_sampler,
    sample_latents,
    sample_stream,
)
from avatarctl.sampling.wavefront import next_window
from avatarctl.sampling.windows import Plan, Window, pictures_of
from avatarctl.settings.render import RenderSettings

INPUTS = tiny_inputs()
TEXTS = {"positive": INPUTS["encoder_hidden_states"], "negative": tiny_inputs(seed=2)["encoder_hidden_states"]}
LATENTS = INPUTS["hidden_states"]
TABLES = {
    "cfg": {"guidance": "cfg"},
    "native": {"guidance": "native"},
    "none": {"guidance": "none"},
    "table": {
        "guidance": [
            {"text": "positive", "audio": "window", "tokens": "adapter", "weight": 2.5},
            {"text": "negative", "audio": "zero", "tokens": "adapter", "weight": -0.5},
            {"text": "positive", "audio": "window", "tokens": "zero", "weight": -1.0},
        ]
    },
}


def speech(window: Window) -> torch.Tensor:
    """What is heard depends on where in the sound a window lies, and on nothing else."""
    return torch.randn(1, 41, TINY.w2v, generator=torch.Generator().manual_seed(window.first_sample))


CONDITIONS = Conditions(
    TEXTS["positive"], TEXTS["negative"], INPUTS["encoder_hidden_states_image"], INPUTS["condition"], speech
)


def ask(
    predictor: Predictor, window: Window, i: int, latents: torch.Tensor, guidance_residual: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Ask for one window's velocity."""
    [found] = predictor([WindowRequest(window, i, latents, guidance_residual)])
    return found


def plan_of(latent_frames: int = 14, overlap: int = 2) -> Plan:
    return Plan(pictures_of(latent_frames), Fraction(25), latent_frames, FRAMES, overlap)


def asked(**changes: object) -> RenderSettings:
    return RenderSettings(**{"steps": 4, "window": FRAMES, "overlap": 2, "seed": 3, **changes})


@pytest.fixture(scope="module")
def model():
    return tiny_transformer()


def predictor_of(model, settings: RenderSettings, conditions: Conditions = CONDITIONS, **options) -> Predictor:
    return make_sampler(model, conditions, plan_of(), settings, **options)[1]


@contextmanager
def counted(module: torch.nn.Module) -> Iterator[list[int]]:
    """Return a list that grows by one with every call of a network."""
    calls: list[int] = []
    hook = module.register_forward_hook(lambda *_: calls.append(len(calls)))
    yield calls
    hook.remove()


@torch.no_grad()
def by_hand(model, inputs: Inputs, window: Window, timestep: float, latents: torch.Tensor = LATENTS) -> torch.Tensor:
    heard = speech(window) if inputs.audio == "window" else torch.zeros(1, 41, TINY.w2v)
    return model(
        hidden_states=latents,
        timestep=torch.tensor([timestep]),
        encoder_hidden_states=TEXTS[inputs.text],
        encoder_hidden_states_image=INPUTS["encoder_hidden_states_image"],
        condition=INPUTS["condition"],
        audio_states=heard if inputs.tokens == "adapter" else None,
    ).sample


# -- One window step --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLES)
def test_guided_prediction_is_that_of_passes_made_by_hand(model, name: str) -> None:
    settings, window, i = asked(**TABLES[name]), plan_of().get(1), 2
    timestep = float(schedule(4).timesteps[i])
    expected = sum(weight * by_hand(model, inputs, window, timestep) for inputs, weight in scheme_of(settings).items())
    guided, guidance_residual = ask(predictor_of(model, settings), window, i, LATENTS, None)
    assert guided.shape == LATENTS.shape
    assert torch.allclose(guided, expected, atol=2e-4), (guided - expected).abs().max()
    assert guidance_residual is None


def test_cfg_by_hand(model) -> None:
    """The formula as published, without a table."""
    window, timestep = plan_of().get(0), float(schedule(4).timesteps[0])
    u = by_hand(model, Inputs("negative", "window", "zero"), window, timestep)
    x = by_hand(model, Inputs("negative", "window", "adapter"), window, timestep)
    c = by_hand(model, CONDITIONAL, window, timestep)
    guided, _ = ask(predictor_of(model, asked(audio_scale=5.0, text_scale=3.0)), window, 0, LATENTS, None)
    assert torch.allclose(guided, u + 5 * (x - u) + 3 * (c - x), atol=2e-4)
    # The three differ by far more than the tolerance, or the comparison would show nothing.
    assert min((u - x).abs().max(), (x - c).abs().max()) > 1e-2


@pytest.mark.parametrize(
    ("changes", "passes", "adapter"),
    [
        (TABLES["cfg"], 3, 1),
        ({"audio_scale": 3.0, "text_scale": 3.0}, 2, 1),
        (TABLES["native"], 3, 2),
        (TABLES["none"], 1, 1),
        (TABLES["table"], 3, 2),
    ],
)
def test_adapter_runs_once_per_audio(model, changes: dict, passes: int, adapter: int) -> None:
    with counted(model) as calls, counted(model.vocal_projector) as heard:
        ask(predictor_of(model, asked(**changes)), plan_of().get(0), 0, LATENTS, None)
    assert (len(calls), len(heard)) == (passes, adapter)


@pytest.mark.parametrize("name", ["cfg", "native"])
def test_text_prepared_once_gives_the_same_numbers(model, name: str) -> None:
    settings, window = asked(**TABLES[name]), plan_of().get(0)
    once, again = (predictor_of(model, settings, precompute=flag) for flag in (True, False))
    embedder = model.condition_embedder.text_embedder
    counts = []
    for predictor in (once, again):
        with counted(embedder) as calls:
            outs = [ask(predictor, window, i, LATENTS, None)[0] for i in (0, 1)]
        counts.append(len(calls))
        if predictor is once:
            expected = outs
    assert all(torch.equal(a, b) for a, b in zip(outs, expected))
    texts = len({inputs.text for inputs in scheme_of(settings)})
    assert counts == [texts, 2 * len(scheme_of(settings))]


def test_interval_leaves_one_pass_outside(model) -> None:
    levels, window = schedule(4), plan_of().get(0)
    sigmas = levels.sigmas.tolist()
    inside = (sigmas[2] - 1e-3, sigmas[1] + 1e-3)
    predictor = predictor_of(model, asked(guidance_interval=inside))
    counts = []
    for i in range(4):
        with counted(model) as calls:
            ask(predictor, window, i, LATENTS, None)
        counts.append(len(calls))
    assert counts == [1, 3, 3, 1]
    alone = by_hand(model, CONDITIONAL, window, float(levels.timesteps[0]))
    assert torch.allclose(ask(predictor, window, 0, LATENTS, None)[0], alone, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (asked(audio_scale=4.0, text_scale=2.0), guidance.cfg(4.0, 2.0)),
        (asked(guidance="native", native_audio_weight=1.0, native_token_weight=0.5), guidance.native(1.0, 0.5)),
        (asked(guidance="none"), guidance.none()),
        (
            asked(**TABLES["table"]),
            {CONDITIONAL: 2.5, Inputs("negative", "zero", "adapter"): -0.5, Inputs("positive", "zero", "zero"): -1.0},
        ),
    ],
)
def test_scheme_that_settings_ask_for(settings: RenderSettings, expected: dict) -> None:
    assert scheme_of(settings) == expected


# -- Guidance reused --------------------------------------------------------------------------------------------------


def rendered(model, **changes: object) -> torch.Tensor:
    return sample_latents(model, CONDITIONS, plan_of(), asked(**changes))


def test_reuse_of_1_changes_nothing(model) -> None:
    settings, window = asked(), plan_of().get(0)
    predictor = predictor_of(model, settings)
    guided, guidance_residual = ask(predictor, window, 1, LATENTS, None)
    assert guidance_residual is None
    # What an earlier step may have kept is not looked at.
    assert torch.equal(ask(predictor, window, 1, LATENTS, torch.ones_like(LATENTS))[0], guided)
    assert torch.equal(rendered(model, guidance_reuse=1), rendered(model))


@pytest.mark.parametrize(("reuse", "passes"), [(1, 12), (2, 8), (3, 8), (4, 6)])
def test_reuse_skips_passes(model, reuse: int, passes: int) -> None:
    """Of four steps every ``reuse``-th takes three passes, the others one."""
    with counted(model) as calls:
        rendered(model, guidance_reuse=reuse)
    assert len(calls) == passes * plan_of().count


def test_reused_guidance_is_the_kept_difference(model) -> None:
    window, levels = plan_of().get(0), schedule(4)
    predictor = predictor_of(model, asked(guidance_reuse=2))
    guided, guidance_residual = ask(predictor, window, 0, LATENTS, None)
    conditional = [by_hand(model, CONDITIONAL, window, float(levels.timesteps[i])) for i in (0, 1)]
    assert torch.allclose(guidance_residual, guided - conditional[0], atol=1e-4)
    reused, still = ask(predictor, window, 1, LATENTS, guidance_residual)
    assert torch.allclose(reused, conditional[1] + guidance_residual, atol=1e-4)
    assert torch.equal(still, guidance_residual)


def test_reuse_without_anything_kept_computes_all(model) -> None:
    window = plan_of().get(0)
    exact = ask(predictor_of(model, asked()), window, 1, LATENTS, None)[0]
    assert torch.equal(ask(predictor_of(model, asked(guidance_reuse=2)), window, 1, LATENTS, None)[0], exact)


def test_kept_guidance_survives_a_saved_state(model) -> None:
    settings = asked(guidance_reuse=2)
    expected = rendered(model, guidance_reuse=2)
    assert not torch.equal(expected, rendered(model))
    sampler, _ = make_sampler(model, CONDITIONS, plan_of(), settings)
    finals = []
    for _ in range(6):
        finals += advance(sampler, next_window(sampler.progress))
    assert any(window.done % 2 for window in sampler.windows.values())
    saved, first = dict(sampler.windows), sampler.progress.first

    def resumed(windows: dict) -> torch.Tensor:
        again, _ = make_sampler(model, CONDITIONS, plan_of(), settings, windows=windows, first=first)
        return join(finals + [final for given in again.run() for final in given])

    assert torch.equal(resumed(saved), expected)
    forgetful = {index: replace(window, guidance_residual=None) for index, window in saved.items()}
    assert not torch.equal(resumed(forgetful), expected)


def test_guidance_begins_with_the_interval_also_when_reused(model) -> None:
    """Outside the interval there is no difference to keep: the first step inside has to compute one."""
    levels, window = schedule(4), plan_of().get(0)
    inside = (float(levels.sigmas[3]) - 1e-3, float(levels.sigmas[1]) + 1e-3)
    predictor = predictor_of(model, asked(guidance_reuse=2, guidance_interval=inside))
    _, guidance_residual = ask(predictor, window, 0, LATENTS, None)
    guided, _ = ask(predictor, window, 1, LATENTS, guidance_residual)
    exact, _ = ask(predictor_of(model, asked()), window, 1, LATENTS, None)
    assert torch.allclose(guided, exact, atol=1e-4)


# -- Whole renders ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"guidance": "native", "blend": "log"},
        {"guidance_reuse": 2},
        {"guidance_interval": (0.3, 0.95)},
    ],
    ids=["cfg", "native", "reuse", "interval"],
)
@pytest.mark.parametrize("overlap", [2, 4])
def test_both_orders_give_the_same_bits(model, changes: dict, overlap: int) -> None:
    plan = plan_of(13, overlap)
    expected = sample_latents(model, CONDITIONS, plan, asked(order="steps", overlap=overlap, **changes))
    assert expected.shape == (1, TINY.out_dim, 13, ROWS, COLUMNS)
    assert torch.isfinite(expected).all()
    wave = sample_latents(model, CONDITIONS, plan, asked(order="wavefront", overlap=overlap, **changes))
    assert torch.equal(wave, expected)


@pytest.mark.parametrize("order", ["wavefront", "steps"])
def test_beginning_stays_when_the_sound_grows(model, order: str) -> None:
    """The end of a video reaches one window to the left per step: with two steps, two windows of 14 frames are out of reach."""
    settings = asked(steps=2, order=order)
    short = sample_latents(model, CONDITIONS, plan_of(14), settings)
    long = sample_latents(model, CONDITIONS, plan_of(26), settings)
    assert torch.equal(long[:, :, :8], short[:, :, :8])
    assert not torch.equal(long[:, :, 8:14], short[:, :, 8:14])


def test_noise_comes_from_the_seed_or_as_given(model) -> None:
    settings, plan = asked(steps=2), plan_of(10)
    drawn = window_noise(3, 0, 10, (TINY.out_dim, ROWS, COLUMNS))
    from_seed = sample_latents(model, CONDITIONS, plan, settings)
    assert torch.equal(sample_latents(model, CONDITIONS, plan, settings, noise=drawn), from_seed)
    other = sample_latents(model, CONDITIONS, plan, asked(steps=2, seed=4))
    assert not torch.allclose(other, from_seed, atol=1e-2)


@pytest.mark.parametrize("order", ["wavefront", "steps"])
def test_speech_is_asked_once_and_forgotten_when_final(model, order: str) -> None:
    asked_for: list[int] = []
    held: list[weakref.ref[torch.Tensor]] = []

    def listen(window: Window) -> torch.Tensor:
        states = speech(window)
        asked_for.append(window.index)
        held.append(weakref.ref(states))
        return states

    plan, steps = plan_of(26), []
    stream = sample_stream(
        model,
        replace(CONDITIONS, speech=listen),
        plan,
        asked(steps=2, order=order),
        callback=lambda sampler: steps.append(sampler.progress.steps_done()),
    )
    for final in stream:
        gone = [index for index, states in zip(asked_for, held) if states() is None]
        assert gone == list(range(final.window + 1))
    assert asked_for == list(range(plan.count))
    assert steps == list(range(1, 2 * plan.count + 1))


def test_forgotten_speech_is_asked_again(model) -> None:
    asked_for: list[int] = []

    def listen(window: Window) -> torch.Tensor:
        asked_for.append(window.index)
        return speech(window)

    predictor = predictor_of(model, asked(guidance="none"), replace(CONDITIONS, speech=listen))
    for index in (0, 1, 2):
        ask(predictor, plan_of().get(index), 0, LATENTS, None)
    predictor.forget(1)
    for index in (2, 1):
        ask(predictor, plan_of().get(index), 1, LATENTS, None)
    assert asked_for == [0, 1, 2, 1]


def test_predictions_carry_no_gradient(model) -> None:
    guided, _ = ask(predictor_of(model, asked()), plan_of().get(0), 0, LATENTS, None)
    assert not guided.requires_grad


# -- Windows that share passes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("changes", [{}, {"guidance_reuse": 2}, {"guidance_interval": (0.3, 0.9)}], ids=str)
@pytest.mark.parametrize("batch", some([2, 3], 3))
@pytest.mark.parametrize("precompute", [True, False])
def test_windows_that_share_passes_give_what_they_give_alone(
    table: str, changes: dict, batch: int, precompute: bool
) -> None:
    settings = RenderSettings(**TABLES[table], **changes, steps=4)
    plan = plan_of(20)
    results = []
    for size in (1, batch):
        sampler, _ = make_sampler(tiny_transformer(), CONDITIONS, plan, settings, precompute=precompute, batch=size)
        rounds = [final for finals in sampler.run() for final in finals]
        results.append(join(rounds))
    torch.testing.assert_close(results[1], results[0], rtol=1e-3, atol=1e-4)


def test_windows_that_hear_speech_of_another_length_do_not_share() -> None:
    def ragged(window: Window) -> torch.Tensor:
        return speech(window)[:, : 41 - window.index % 2]

    settings, plan = RenderSettings(steps=3), plan_of(20)
    conditions = replace(CONDITIONS, speech=ragged)
    alone, shared = (
        join([f for fs in make_sampler(tiny_transformer(), conditions, plan, settings, batch=n)[0].run() for f in fs])
        for n in (1, 4)
    )
    torch.testing.assert_close(shared, alone, rtol=1e-3, atol=1e-4)


def test_a_batch_of_windows_runs_fewer_passes() -> None:
    settings, plan, counts = RenderSettings(steps=6), plan_of(26), []
    for batch in (1, 4):
        model = tiny_transformer()
        count = [0]
        hook = model.register_forward_hook(lambda *_, count=count: count.__setitem__(0, count[0] + 1))
        list(make_sampler(model, CONDITIONS, plan, settings, batch=batch)[0].run())
        hook.remove()
        counts.append(count[0])
    assert counts[0] == 3 * 6 * plan.count
    assert counts[1] < 0.6 * counts[0]
