"""Tests with curves and pictures whose truth is known: the measurements find it."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from avatarctl.evaluation.identity import colour_distance, nearest
from avatarctl.evaluation.sync import best_lag, correlation, shuffled, sync
from avatarctl.evaluation.windows import border_jumps, border_pictures
from avatarctl.sampling.windows import plan_windows

CHANCE = np.random.default_rng(5)


def curve(frames: int = 200) -> np.ndarray:
    return np.convolve(CHANCE.normal(size=frames + 20), np.ones(5) / 5, mode="same")[10 : frames + 10]


@pytest.mark.parametrize("lag", [-8, -3, 0, 1, 8])
def test_sync_finds_lag_amplitude_and_correlation(lag: int) -> None:
    whole = curve(240)
    expected, measured = whole[20:220], 1.5 * whole[20 - lag : 220 - lag] + 0.2
    found = sync(measured, expected)
    assert found.lag == lag
    assert found.amplitude == pytest.approx(1.5, rel=0.1)
    assert found.correlation == pytest.approx(np.corrcoef(measured, expected)[0, 1])
    assert (found.correlation > 0.999) == (lag == 0)


def test_a_mouth_that_never_moves_follows_nothing() -> None:
    expected = curve()
    assert sync(np.full(200, 0.1), expected).correlation == 0
    assert correlation(expected, np.zeros(200)) == 0
    assert best_lag(np.full(200, 0.1), expected) == 0
    with pytest.raises(ValueError, match="never moves"):
        sync(expected, np.full(200, 0.3))


def test_curves_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="got curves of 30 and 31 frames"):
        sync(curve(30), curve(31))
    with pytest.raises(ValueError, match="expected as many, and 24"):
        sync(curve(20), curve(20))


def test_shuffled_compares_with_all_the_others() -> None:
    curves = [curve() for _ in range(6)]
    expected = np.mean([np.corrcoef(a, b)[0, 1] for a in curves for b in curves if a is not b])
    assert shuffled(curves, curves) == pytest.approx(expected)
    same = curve()
    assert shuffled([same, same], [same, same]) == pytest.approx(1)
    onset = np.linspace(0, 3, 25)
    late = [np.concatenate([onset, curve]) for curve in curves]  # they begin alike
    assert shuffled(late, late) > expected + 0.1
    assert shuffled(late, late, 25) == pytest.approx(expected)
    with pytest.raises(ValueError, match="two at least"):
        shuffled([same], [same])


def test_colour_distance_counts_what_the_mask_shows_alone() -> None:
    reference = CHANCE.integers(0, 200, (8, 8, 3), dtype=np.uint8)
    mask = np.ones((8, 8), bool)
    mask[:4] = False
    frames = np.stack([reference, reference + 9, reference])
    frames[2, :4] += 50
    assert colour_distance(frames, reference, mask) == pytest.approx([0, 9, 0])
    others = np.stack([reference + 20, reference, 255 - reference])
    assert nearest(frames, others, mask) == 1


@pytest.mark.parametrize("tail", ["full", "reference"])
def test_borders_are_both_ends_of_every_overlap(tail: str) -> None:
    plan = plan_windows(16000 * 7, Fraction(25), 21, 5, tail)
    borders = border_pictures(plan)
    starts = [plan.get(i).start for i in range(1, plan.count)]
    stops = [plan.get(i).stop for i in range(plan.count - 1)]
    first = {latent: 4 * latent - 3 for latent in (*starts, *stops)}  # the first picture of a latent frame
    assert borders == sorted({p for p in first.values() if p < plan.video_frames}) and len(borders) >= 4


def test_a_jump_at_a_border_is_seen_and_one_elsewhere_is_not() -> None:
    plan = plan_windows(16000 * 7, Fraction(25), 21, 5)
    steps = np.ones(plan.video_frames - 1)

    def video() -> np.ndarray:
        values = np.concatenate([[0], np.cumsum(steps)]) % 250
        return np.broadcast_to(values.astype(np.uint8)[:, None, None, None], (len(values), 4, 4, 3))

    smooth = border_jumps(video(), plan)
    assert smooth.ratio == pytest.approx(1) and smooth.count == len(border_pictures(plan))
    steps[border_pictures(plan)[0] + 1] = 40
    assert border_jumps(video(), plan).ratio == pytest.approx(1)
    steps[np.array(border_pictures(plan)) - 1] = 3
    assert border_jumps(video(), plan).ratio == pytest.approx(3)
    with pytest.raises(ValueError, match="got 1 window"):
        border_jumps(video()[:20], plan_windows(16000, Fraction(25), 21, 5))
