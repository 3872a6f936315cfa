"""Slopes and their intervals, on curves whose slope is known."""

from __future__ import annotations

import numpy as np
import pytest

from avatarctl.evaluation.trend import LEAST_S, by_second, trend


def rough(seconds: int, seed: int, alike: float = 0.8) -> np.ndarray:
    """Noise whose neighbouring seconds are alike."""
    noise = np.random.default_rng(seed).normal(0, 1, seconds)
    for place in range(1, seconds):
        noise[place] = alike * noise[place - 1] + np.sqrt(1 - alike**2) * noise[place]
    return noise


@pytest.mark.parametrize("seconds", [60, 180, 600])
def test_the_interval_holds_the_slope_nearly_always(seconds: int) -> None:
    """Of 100 steady curves about 5 have an interval without 0; of 100 rising ones as many lack the true slope."""
    wrong = [0, 0]
    for seed in range(100):
        for place, slope in enumerate((0.0, 0.7)):
            found = trend(rough(seconds, seed) + slope * np.arange(seconds) / 60)
            assert found is not None
            wrong[place] += not found.low <= slope <= found.high
    assert max(wrong) <= 14, wrong


def test_a_slope_is_found_and_the_same_curve_has_the_same_interval() -> None:
    curve = 0.1 * rough(300, 1) + 0.5 * np.arange(300) / 60
    found = trend(curve)
    assert found is not None and found.certain and abs(found.slope - 0.5) < 0.1 and found == trend(curve)
    noisy = trend(rough(300, 1))
    assert noisy is not None and not noisy.certain


def test_a_step_between_two_stretches_is_no_slope() -> None:
    curve, stretch = 0.1 * rough(240, 2), np.repeat([0, 1], 120)
    curve[120:] += 5
    alone, within = trend(curve), trend(curve, stretch)
    assert alone is not None and alone.certain
    assert within is not None and not within.certain and abs(within.slope) < 0.1
    rising = trend(curve + 0.4 * np.arange(240) / 60, stretch)
    assert rising is not None and rising.certain and abs(rising.slope - 0.4) < 0.1


def test_gaps_are_left_out_and_too_little_is_none() -> None:
    curve = 0.5 * np.arange(120) / 60
    curve[30:50] = np.nan
    found = trend(curve)
    assert found is not None and found.slope == pytest.approx(0.5)
    assert trend(np.arange(LEAST_S - 1.0)) is None and trend(np.full(100, np.nan)) is None
    assert trend(np.arange(LEAST_S + 0.0)) is not None


def test_means_of_seconds() -> None:
    assert by_second(np.arange(8.0), 4).tolist() == [1.5, 5.5]
    assert by_second(np.array([1.0, np.nan, 3.0, np.nan, np.nan]), 2).tolist()[:1] == [1.0]
    assert len(by_second(np.arange(300.0), 30000 / 1001)) == 10
    assert by_second(np.array([2.0, 4.0]), 25).tolist() == [3.0]
