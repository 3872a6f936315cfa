"""Lips, colours and joints on curves that are written by hand: no picture, no network."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

import numpy as np
import pytest

from avatarctl.evaluation.lips import score_lips, speaker
from avatarctl.evaluation.looks import score_looks
from avatarctl.evaluation.persons import Persons
from avatarctl.evaluation.reference import Reference
from avatarctl.evaluation.sheet import Sheet
from avatarctl.evaluation.watch import COLUMNS, Seat, Watched
from avatarctl.evaluation.windows import borders_every

FPS = Fraction(25)


def seat(count: int, **columns: np.ndarray) -> Seat:
    """Return a face in every picture; columns that aren't named are 100."""
    made = Seat(track=0)
    for name in COLUMNS:
        made.columns[name].extend(columns.get(name, np.full(count, 100.0)).tolist())
    return made


def watched(count: int, *seats: Seat, **curves: np.ndarray) -> Watched:
    still = curves.get("still", np.zeros((90, 160)))
    flat = np.zeros(count)
    return Watched(
        *(FPS, (160, 90), list(seats), curves.get("steps", flat), curves.get("lightness", flat)),
        *(flat.astype(int), flat.astype(bool), np.ones(count, int), still, Sheet()),
    )


def rhythm(count: int, seed: int = 0) -> np.ndarray:
    raw = np.random.default_rng(seed).normal(0, 1, count + 8)
    return np.convolve(raw, np.ones(5) / 5, "valid")[:count]


def lips_of(opening: np.ndarray, spoken: np.ndarray, levels: np.ndarray | None) -> Mapping[str, object]:
    face = seat(len(opening), opening=opening)
    _, follows = speaker([face], levels, float(FPS))
    return score_lips(watched(len(opening), face), face, levels, spoken, follows).row


@pytest.mark.parametrize("count", [1, 2, 3, 13, 40, 200])
def test_videos_of_any_length_have_their_shares(count: int) -> None:
    spoken = np.arange(count) < count / 2
    row = lips_of(0.2 + 0.1 * np.sin(np.arange(count)), spoken, rhythm(count))
    assert row["speech_share"] == pytest.approx(spoken.mean(), abs=1e-4)
    assert (row["correlation"] is None) == (count < 100)


def test_a_mouth_that_moves_at_the_wrong_times() -> None:
    """It moves in the second half, somebody speaks in the first one."""
    opening = np.where(np.arange(400) < 200, 0.2, 0.2 + 0.1 * np.sin(np.arange(400) / 2))
    spoken = np.arange(400) < 200
    row = lips_of(opening, spoken, rhythm(400))
    assert row["still_in_speech"] > 0.95 and row["moving_in_silence"] > 0.95
    other = lips_of(opening, ~spoken, rhythm(400))
    assert other["still_in_speech"] < 0.05 and other["moving_in_silence"] < 0.05


def test_points_that_alternate_from_picture_to_picture_are_no_movement() -> None:
    opening = 0.2 + 0.03 * (-1.0) ** np.arange(200)
    opening[50:60] = np.nan
    assert lips_of(opening, np.ones(200, bool), rhythm(200))["still_in_speech"] > 0.95


def test_of_two_faces_the_one_that_follows_the_voice_is_measured() -> None:
    levels = rhythm(500)
    silent = seat(500, opening=0.1 * rhythm(500, 1), height=np.full(500, 200.0))
    speaking = seat(500, opening=0.1 * levels, height=np.full(500, 90.0))
    nobody = Seat()
    nobody.columns["opening"].extend([np.nan] * 500)
    nobody.columns["height"].extend([np.nan] * 500)
    assert speaker([silent, speaking, nobody], levels, 25.0)[0] is speaking
    assert speaker([nobody, speaking, silent], None, 25.0)[0] is silent  # without sound the largest


def test_each_minute_has_its_own_lag() -> None:
    levels = rhythm(3000)
    opening = np.concatenate([levels[:1500], np.roll(levels, 5)[1500:]])
    rows = lips_of(opening, np.ones(3000, bool), levels)["per_minute"]
    assert [round(row["lag_s"], 2) for row in rows] == [0.0, 0.2]


def test_change_at_joints_is_compared_with_that_elsewhere() -> None:
    steps = np.ones(100)
    steps[[25, 50, 75]] = 3
    face = seat(100)
    found = score_looks(watched(100, face, steps=steps), face, None, np.zeros(4, int), borders_every(1.0, FPS, 100)).row
    assert found["border_ratio"] == 3 and found["borders"] == 3
    none = score_looks(watched(100, face, steps=steps), face, None, np.zeros(4, int), ()).row
    assert none["border_ratio"] is None and none["borders"] is None and none["sharpness"] is None


def test_what_stands_still_beside_the_head_and_what_flickers() -> None:
    still = np.zeros((90, 160))
    still[:, :40] = 9
    head = {"left": 60.0, "right": 100.0, "top": 10.0, "bottom": 90.0}
    face = seat(50, **{name: np.full(50, value) for name, value in head.items()})
    jumping = 50 + 2.0 * (np.arange(50) % 2)
    seen = watched(50, face, still=still, lightness=jumping)
    found = score_looks(seen, face, None, np.zeros(2, int), ()).row
    outside = 90 * 160 - 80 * 40
    assert found["still_share"] == pytest.approx((outside - 90 * 40) / outside, abs=0.01)
    assert found["flicker"] == pytest.approx(4)
    everywhere = seat(50, left=np.zeros(50), right=np.full(50, 160.0), top=np.zeros(50), bottom=np.full(50, 90.0))
    assert score_looks(watched(50, everywhere), everywhere, None, np.zeros(2, int), ()).row["still_share"] is None


def test_a_drift_of_lightness_is_the_slope_and_a_cut_is_none() -> None:
    seconds = np.repeat(np.arange(180), 25)
    reference = Reference("me", None, 100.0, (100.0, 100.0, 100.0))
    noise = np.random.default_rng(0).normal(0, 0.1, len(seconds))
    face = seat(len(seconds), lightness=100 - 0.5 * seconds / 60 + noise)
    found = score_looks(watched(len(seconds), face), face, reference, np.zeros(180, int), ()).row
    assert found["colour_slope_per_minute"] == pytest.approx(0.5, abs=0.03) and found["sharpness"] == 1
    low, high = found["colour_slopes"]["lightness"]["interval"]
    assert low < -0.5 < high < 0 and found["colour"] == pytest.approx(0.75, abs=0.05)
    cut = seat(len(seconds), lightness=100 + 8.0 * (seconds >= 90) + noise)
    alone = score_looks(watched(len(seconds), cut), cut, reference, (np.arange(180) >= 90).astype(int), ()).row
    assert alone["colour_slope_per_minute"] < 0.05


def test_persons_are_told_apart_and_one_look_is_no_person() -> None:
    one, other = np.zeros(128, np.float32), np.full(128, 0.08, np.float32)
    persons = Persons()
    assert [persons.of(each) for each in (one, one, other, one, one)] == [0, 0, 1, 0, 0] and persons.count == 1
    assert [persons.of(other) for _ in range(2)] == [1, 1] and persons.count == 2
    alone = Persons()
    alone.of(one)
    assert alone.count == 1 and Persons().count == 0
