"""Measures of drawn pictures and of curves: right on true pictures, and on curves made for it."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from avatarctl.evaluation.colour import lab
from avatarctl.evaluation.identity import slope_interval
from avatarctl.puppet.world.clips import EYE_REGIONS, MOUTH_REGION, region_mask
from avatarctl.puppet.world.identity import IRISES, Identity, Pose
from avatarctl.puppet.world.mouth import GAP, half_width
from avatarctl.puppet.world.portrait import SIZE, Portrait
from avatarctl.puppet.world.scores import Closures, blinks_of, closures_shown, onset_lag, openings
from avatarctl.puppet.world.see import first_change, flash, gap_area, own_iris_is_nearest, saturation, see

STILL = region_mask(SIZE, [MOUTH_REGION, *EYE_REGIONS]) == 0


@cache
def moments(seed: int) -> tuple[tuple[Pose, ...], np.ndarray]:
    """Thirty poses by chance and their pictures."""
    chance = np.random.default_rng(seed)
    poses = []
    for index in range(30):
        opening = 0.0 if index % 5 == 0 else float(chance.uniform(0, 1) ** 1.3)
        poses.append(
            Pose(
                opening=opening,
                width=float(chance.uniform(0, 1)),
                press=float(index % 10 == 0),
                blink=float(chance.uniform(0, 1)) if index % 3 == 0 else 0.0,
                brow=float(chance.uniform(-0.4, 1)),
                x=float(chance.uniform(-0.006, 0.006)),
                y=float(chance.uniform(-0.006, 0.006)),
                roll=float(chance.uniform(-0.015, 0.015)),
                nod=float(chance.uniform(-0.008, 0.008)),
            )
        )
    portrait = Portrait.of(Identity.of(seed))
    return tuple(poses), np.stack([portrait.picture(pose) for pose in poses])


@pytest.mark.parametrize("seed", [500, 501, 502, 503])  # dark and light skin, all cuts of hair
def test_mouths_and_lids_are_seen_as_they_were_drawn(seed: int) -> None:
    poses, frames = moments(seed)
    seen = see(frames, Identity.of(seed))
    opening, width, shut = (np.array([getattr(pose, name) for pose in poses]) for name in ("opening", "width", "blink"))
    assert np.abs(seen.opening - opening).max() < 0.15 and np.abs(seen.opening - opening).mean() < 0.05
    assert np.corrcoef(seen.opening, opening)[0, 1] > 0.985
    assert np.corrcoef(seen.width[opening > 0.2], width[opening > 0.2])[0, 1] > 0.9
    assert np.abs(seen.shut - shut).mean() < 0.08 and np.abs(seen.shut - shut).max() < 0.35


def test_the_inside_of_a_mouth_counts_teeth_and_knows_nobody() -> None:
    measured, true, dark = [], [], []
    for seed in (500, 501, 502, 503):
        who, (poses, frames) = Identity.of(seed), moments(seed)
        area = gap_area(frames)
        measured += list(area - area[[pose.opening == 0 for pose in poses]].mean())
        true += [GAP * pose.opening * half_width(who, pose.width) for pose in poses]
        without = np.where((frames.min(3) > 140)[..., None], 100, frames).astype(np.uint8)
        dark += list(gap_area(without))
    assert np.corrcoef(measured, true)[0, 1] > 0.97
    assert np.corrcoef(measured, true)[0, 1] > np.corrcoef(dark, true)[0, 1]


@pytest.mark.long
def test_own_irises_are_told_from_all_others() -> None:
    for seed in range(500, 508):
        who = Identity.of(seed)
        frames = np.stack([Portrait.of(who).picture(Pose(x=x)) for x in (0, 0.006)])
        seen = see(frames, who)
        assert own_iris_is_nearest(frames, seen, who)
        other = max(IRISES, key=lambda iris: np.abs(np.subtract(iris, who.iris)).max())
        stranger = Identity(**{**who.__dict__, "iris": other})
        swapped = np.stack([Portrait.of(stranger).picture(Pose(x=x)) for x in (0, 0.006)])
        assert not own_iris_is_nearest(swapped, seen, who)


def test_shut_eyes_have_no_iris_to_be_near_to() -> None:
    who = Identity.of(500)
    frames = Portrait.of(who).picture(Pose(blink=1))[None]
    seen = see(frames, who)
    assert seen.shut[0] > 0.8
    assert not own_iris_is_nearest(frames, seen, who)


def test_lab_is_cie_lab() -> None:
    assert lab(np.array([255.0, 255, 255])) == pytest.approx([100, 0, 0], abs=0.02)
    assert lab(np.array([255.0, 0, 0])) == pytest.approx([53.24, 80.09, 67.20], abs=0.05)
    assert lab(np.array([0.0, 0, 0])) == pytest.approx([0, 0, 0], abs=1e-6)


def test_a_pale_first_picture_and_a_flash_are_seen() -> None:
    frames = np.repeat(moments(500)[1][:1], 40, axis=0)
    for index in range(40):  # a head that always moves a little
        frames[index] = np.roll(frames[index], index % 2, axis=1)
    assert flash(frames, STILL) < 0.5 and first_change(frames, STILL) == pytest.approx(1.0)
    pale = frames.copy()
    grey = pale[0].mean(2, keepdims=True)
    pale[0] = (grey + 0.5 * (pale[0] - grey)).astype(np.uint8)
    assert saturation(pale)[0] < 0.55 * saturation(frames)[0]
    assert flash(pale, STILL) > 3 and first_change(pale, STILL) > 1.3


# -- Curves -----------------------------------------------------------------------------------------------------------------


def wave(*values: float) -> np.ndarray:
    """A curve through values, six pictures apart."""
    return np.interp(np.arange(6 * (len(values) - 1) + 1), 6 * np.arange(len(values)), values)


def test_closures_are_found_missed_and_invented() -> None:
    expected = wave(0.8, 0, 0.8, 0, 0.8, 0.5, 0.8)
    assert closures_shown(expected, expected, [6, 18]) == Closures(2, 2, 2, 2)
    missing = wave(0.8, 0, 0.8, 0.4, 0.8, 0.5, 0.8)
    assert closures_shown(missing, expected, [6, 18]) == Closures(2, 1, 1, 1)
    invented = wave(0.8, 0, 0.8, 0, 0.8, 0, 0.8)
    assert closures_shown(invented, expected, [6, 18]) == Closures(2, 2, 3, 2)
    late = np.roll(expected, 4)
    assert closures_shown(late, expected, [6, 18]).found == 0
    assert closures_shown(expected, wave(0.1, 0, 0.1, 0, 0.1, 0, 0.1), [6, 18]).wanted == 0  # nothing was open


def test_openings_are_counted_by_their_rise() -> None:
    assert openings(wave(0, 0.8, 0, 0.5, 0)) == 2
    assert openings(wave(0, 0.8, 0.6, 0.9, 0)) == 2
    assert openings(wave(0, 0.8, 0.75, 0.9, 0)) == 1  # a ripple
    assert openings(np.zeros(30)) == 0
    assert openings(wave(0.9, 0.9)) == 1


def test_the_onset_s_lag_is_told() -> None:
    expected = wave(0, 0, 0.8, 0.8)
    assert onset_lag(np.pad(expected, (2, 0))[:-2], expected) == 2
    assert onset_lag(expected, expected) == 0 and onset_lag(np.zeros(19), expected) is None


def test_blinks_of_at_least_three_pictures_are_counted() -> None:
    shut = np.zeros(750)
    for start, length in ((50, 5), (150, 2), (300, 6), (700, 4)):
        shut[start : start + length] = 0.9
    shut[400:410] = 0.4  # tired, not shut
    rate, pictures = blinks_of(shut, 25)
    assert rate == pytest.approx(6.0) and pictures == pytest.approx(5.0)


def test_the_interval_of_a_slope_holds_the_slope() -> None:
    chance = np.random.default_rng(3)
    noise = np.repeat(chance.normal(0, 1, 60), 250) + chance.normal(0, 0.3, 15000)  # ten minutes at 25, slow and fast
    low, high = slope_interval(noise, 25)
    assert low < 0 < high
    low, high = slope_interval(noise + np.arange(15000) / 1500 * 0.8, 25)
    assert 0 < low < 0.8 < high
    assert slope_interval(noise, 25) == slope_interval(noise, 25)
    with pytest.raises(ValueError, match="expected 60 at least"):
        slope_interval(noise[:1000], 25)
