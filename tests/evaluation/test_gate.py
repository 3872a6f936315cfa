"""Bounds, and what is said to be remarkable, on rows that are written by hand."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from avatarctl.errors import UsageError
from avatarctl.evaluation.findings import findings
from avatarctl.evaluation.gate import AT_LEAST, AT_MOST, missed, parse_bounds, value_of
from avatarctl.evaluation.table import table_of

GOOD: dict[str, Any] = {
    "path": "films/talk.mp4",
    "duration_s": 120.0,
    "pictures": 3000,
    "fps": 25.0,
    "reference": "me.png",
    "face": {"share": 1.0, "height_px": 180.0, "persons": 1, "most_at_once": 1, "unsure_share": 0.0},
    "lips": {
        "correlation": 0.5,
        "lag_s": 0.01,
        "shifted_mean": 0.2,
        "shifted_q95": 0.3,
        "times_shifted": 2.5,
        "still_in_speech": 0.02,
        "moving_in_silence": 0.1,
        "amplitude": 0.1,
        "speech_share": 0.7,
        "per_minute": [],
    },
    "identity": {
        "mean": 0.2,
        "worst": 0.3,
        "first_minute": 0.2,
        "last_minute": 0.2,
        "slope_per_minute": 0.001,
        "slope_interval": [-0.01, 0.012],
    },
    "picture": {
        "sharpness": 0.9,
        "sharpness_slope_per_minute": 0.0,
        "sharpness_slope_interval": [-0.01, 0.01],
        "colour": 2.0,
        "colour_slope_per_minute": 0.1,
        "flicker": 0.05,
        "still_share": 0.9,
        "colour_slopes": {name: {"slope": 0.0, "interval": [-0.1, 0.1]} for name in ("lightness", "a", "b")},
        "border_ratio": 1.1,
        "borders": 12,
    },
    "syncnet": {"lse_c": 6.0, "lse_d": 7.0, "lag_s": 0.0, "shifted_lse_c": 1.0, "shifted_lse_d": 10.0},
    "sound": {"duration_s": 120.0, "offset_s": 0.0, "length_difference_s": 0.01},
    "findings": [],
}


def row(**changes: Any) -> dict[str, Any]:
    """Return the good row with other values, named as group__name."""
    found = copy.deepcopy(GOOD)
    for name, value in changes.items():
        group, _, key = name.partition("__")
        found[group][key] = value
    return found


def codes(**changes: Any) -> list[str]:
    return [each["code"] for each in findings(row(**changes))]


def test_a_good_video_has_nothing_remarkable() -> None:
    assert findings(GOOD) == []


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"face__share": 0.8}, "face_share"),
        ({"lips__still_in_speech": 0.97, "lips__correlation": 0.1}, "frozen_lips"),
        ({"lips__correlation": 0.29}, "lips_do_not_follow"),
        ({"lips__lag_s": 0.06}, "lips_late"),
        ({"lips__lag_s": -0.14}, "lips_early"),
        ({"face__persons": 2, "identity__worst": 0.9}, "other_person"),
        ({"identity__slope_per_minute": 0.08, "identity__slope_interval": [0.05, 0.11]}, "identity_drift"),
        (
            {"picture__sharpness_slope_per_minute": -0.1, "picture__sharpness_slope_interval": [-0.2, -0.05]},
            "sharpness_drift",
        ),
        ({"picture__border_ratio": 2.5}, "borders"),
        ({"sound__length_difference_s": -0.5}, "lengths"),
    ],
)
def test_each_fault_is_told_by_its_own_measure_and_no_other(changes: dict[str, Any], code: str) -> None:
    assert codes(**changes) == [code]


def test_a_drift_of_colours_has_to_be_certain_and_visible() -> None:
    slopes = {**GOOD["picture"]["colour_slopes"], "lightness": {"slope": -0.8, "interval": [-0.9, -0.7]}}
    assert codes(picture__colour_slope_per_minute=0.8, picture__colour_slopes=slopes) == ["colour_drift"]
    assert codes(picture__colour_slope_per_minute=0.8) == []  # no interval leaves 0 out
    assert codes(picture__colour_slope_per_minute=0.4, picture__colour_slopes=slopes) == []  # 0.8 after two minutes


def test_lips_before_the_sound_are_noticed_later_than_lips_after_it() -> None:
    assert codes(lips__lag_s=-0.1) == [] and codes(lips__lag_s=0.04) == []


def test_no_face_is_the_only_thing_to_say() -> None:
    found = row(face__share=0.0, face__height_px=None)
    for group in ("lips", "identity", "picture"):
        found[group] = dict.fromkeys(found[group])
    assert [each["code"] for each in findings(found)] == ["no_face"]


def test_bounds_count_upwards_or_without_sign_downwards() -> None:
    bounds = parse_bounds(["lips.lag_s=0.08", "lips.correlation=0.4", "identity.mean=0.6", "picture.sharpness=0.8"])
    assert missed(GOOD, bounds) == []
    assert missed(row(lips__lag_s=-0.1), bounds) == ["lips.lag_s: -0.1, expected at most 0.08"]
    assert missed(row(lips__correlation=0.39), bounds) == ["lips.correlation: 0.39, expected at least 0.4"]
    assert missed(row(identity__mean=None), bounds) == ["identity.mean: not measured, expected at most 0.6"]


def test_every_bound_is_the_name_of_a_measure() -> None:
    assert [key for key in (*AT_LEAST, *AT_MOST) if value_of(GOOD, key) is None] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lips.lag=0.1", "did you mean"),
        ("lips.lag_s", "expected lips.lag_s=NUMBER"),
        ("lips.lag_s=soon", "expected lips.lag_s=NUMBER"),
        ("lips.lag_s=nan", "expected lips.lag_s=NUMBER"),
        ("nothing=1", "expected the name of a measure"),
    ],
)
def test_bounds_that_are_none(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_bounds(["identity.mean=0.6", text])


def test_the_table_fits_80_columns_whatever_the_names_are() -> None:
    long = {**GOOD, "path": "/a/folder/" + "x" * 90 + ".mp4"}
    nothing = row(**{f"lips__{name}": None for name in GOOD["lips"]})
    text = table_of([GOOD, long, {**nothing, "findings": [{"code": "a", "text": "b"}], "missed": ["c"]}])
    assert max(len(line) for line in text.split("\n")) <= 80
    lines = text.split("\n")
    assert lines[0].split()[:3] == ["VIDEO", "FACE", "LIPS"] and "0.50" in lines[1] and "+0.01" in lines[1]
    assert "talk.mp4: b" in lines and "talk.mp4: missed: c" in lines
