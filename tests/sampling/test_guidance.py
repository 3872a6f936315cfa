"""Tests with scales: tables of passes hold the formulas of their schemes, without a pass too many."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from avatarctl.errors import UsageError
from avatarctl.sampling.guidance import CONDITIONAL, Inputs, active, cfg, combine, native, none, scheme

scales = st.floats(-10, 10, allow_subnormal=False)

NO_TEXT_NO_AUDIO = Inputs("negative", "zero", "zero")
NO_TEXT = Inputs("negative", "window", "adapter")
UNHEARD = Inputs("positive", "zero", "adapter")
NO_TOKENS = Inputs("positive", "zero", "zero")


def drawn(*passes: Inputs) -> dict[Inputs, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {inputs: torch.randn(1, 2, 3, 4, 4, generator=generator) for inputs in passes}


@given(scales, scales)
def test_cfg_is_the_released_formula(a: float, t: float) -> None:
    made = drawn(NO_TEXT_NO_AUDIO, NO_TEXT, CONDITIONAL)
    u, x, c = made.values()
    assert torch.allclose(combine(cfg(a, t), made), u + a * (x - u) + t * (c - x), atol=2e-5)


@given(scales, scales)
def test_native_goes_away_from_both_negative_passes(w1: float, w2: float) -> None:
    made = drawn(CONDITIONAL, UNHEARD, NO_TOKENS)
    c, unheard, no_tokens = made.values()
    expected = c + w1 * (c - unheard) + w2 * (c - no_tokens)
    assert torch.allclose(combine(native(w1, w2), made), expected, atol=5e-5)


@pytest.mark.parametrize(
    ("table", "passes"),
    [
        (cfg(5.0, 3.0), {NO_TEXT_NO_AUDIO: -4.0, NO_TEXT: 2.0, CONDITIONAL: 3.0}),
        (cfg(3.0, 3.0), {NO_TEXT_NO_AUDIO: -2.0, CONDITIONAL: 3.0}),
        (cfg(1.0, 3.0), {NO_TEXT: -2.0, CONDITIONAL: 3.0}),
        (cfg(5.0, 0.0), {NO_TEXT_NO_AUDIO: -4.0, NO_TEXT: 5.0}),
        (cfg(1.0, 1.0), {CONDITIONAL: 1.0}),
        (native(2.0, 1.5), {CONDITIONAL: 4.5, UNHEARD: -2.0, NO_TOKENS: -1.5}),
        (native(2.0, 0.0), {CONDITIONAL: 3.0, UNHEARD: -2.0}),
        (native(0.0, 0.0), {CONDITIONAL: 1.0}),
        (none(), {CONDITIONAL: 1.0}),
    ],
)
def test_passes_and_weights(table: dict, passes: dict) -> None:
    """Equal scales, a scale of 1 or of 0 leave a pass out."""
    assert list(table.items()) == list(passes.items())


@given(st.lists(st.tuples(st.sampled_from(list(cfg(5, 3)) + list(native(2, 2))), scales), min_size=1, max_size=8))
def test_equal_passes_are_joined(rows: list[tuple[Inputs, float]]) -> None:
    rows = [*rows, (CONDITIONAL, 1 - sum(weight for _, weight in rows))]
    table = scheme(rows)
    assert len(set(table)) == len(table)
    assert all(table.values())
    assert sum(table.values()) == pytest.approx(1, abs=1e-6)
    made = drawn(*{inputs: 0 for inputs, _ in rows})
    whole = sum(weight * made[inputs].double() for inputs, weight in rows)
    assume(table)
    assert torch.allclose(combine(table, made).double(), whole, atol=1e-4)


def test_audio_that_is_not_heard_makes_no_other_pass() -> None:
    rows = [
        (CONDITIONAL, 2.0),
        (Inputs("negative", "window", "zero"), -0.5),
        (Inputs("negative", "zero", "zero"), -0.5),
    ]
    assert scheme(rows) == {CONDITIONAL: 2.0, NO_TEXT_NO_AUDIO: -1.0}


@pytest.mark.parametrize("weights", [(2.0, -0.5), (1.0, 1e-5), (0.0, 0.0)])
def test_weights_have_to_add_up_to_1(weights: tuple[float, float]) -> None:
    with pytest.raises(UsageError, match=f"add up to {sum(weights):g}, expected 1"):
        scheme([(CONDITIONAL, weights[0]), (NO_TEXT, weights[1])])


def test_guidance_is_active_in_the_interval_alone() -> None:
    table = cfg(5.0, 3.0)
    assert active(table, 0.9, None) is table
    assert [active(table, sigma, (0.2, 0.8)) is table for sigma in (1.0, 0.8, 0.5, 0.2, 0.1)] == [
        False, True, True, True, False,
    ]  # fmt: skip
    assert active(table, 1.0, (0.2, 0.8)) == none()


def test_sum_is_taken_in_the_order_of_the_table() -> None:
    """Float addition is not associative: the table decides, not the order in which predictions were made."""
    table = {NO_TEXT_NO_AUDIO: -4.0, NO_TEXT: 2.0, CONDITIONAL: 3.0}
    made = drawn(*table)
    expected = (-4.0 * made[NO_TEXT_NO_AUDIO] + 2.0 * made[NO_TEXT]) + 3.0 * made[CONDITIONAL]
    assert torch.equal(combine(table, made), expected)
    assert torch.equal(combine(table, dict(reversed(made.items()))), expected)
    backwards = dict(reversed(table.items()))
    assert not torch.equal(combine(backwards, made), expected)


def test_sum_is_taken_in_float32() -> None:
    made = {inputs: values.bfloat16() for inputs, values in drawn(NO_TEXT_NO_AUDIO, NO_TEXT, CONDITIONAL).items()}
    out = combine(cfg(5.0, 3.0), made)
    assert out.dtype == torch.float32
    assert torch.equal(out, combine(cfg(5.0, 3.0), {inputs: values.float() for inputs, values in made.items()}))
