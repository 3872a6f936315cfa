"""Measurements of drawn persons become goals that are reached by perfect ones, and missed by each that is not."""

from __future__ import annotations

from typing import Any

import pytest

from avatarctl.puppet.world import report as judge

PERFECT: dict[str, Any] = {
    "correlation": 0.95,
    "lag": 0,
    "amplitude": 1.0,
    "width_correlation": 0.9,
    "closures": {"wanted": 4, "found": 4, "shown": 5, "right": 5},
    "openings": 14,
    "openings_expected": 15,
    "vowels": 20,
    "onset_lag": 0,
    "blinks_per_minute": 18.0,
    "blink_pictures": 5.0,
    "saturation_first": 0.99,
    "flash": 0.8,
    "first_change": 1.2,
    "own_iris": True,
    "nearest_of_20_faces": True,
    "distance": 3.0,
    "look": 40.0,
    "drift": {"colour": (-0.1, 0.1), "face": (-0.2, 0.1)},
    "borders": {"count": 4, "whole": 1.1},
    "opening": [0.0, 0.5, 0.9, 0.1] * 30,
    "expected": [0.0, 0.4, 1.0, 0.0] * 30,
    "wall_s": 5.0,
}


def report_of(**changed: Any) -> dict[str, Any]:
    found = {**PERFECT, **changed}
    report: dict[str, Any] = {
        "held_out": judge.of_pairs([found] * 4),
        "long": judge.of_long(found, 10),
        "tables": {"steps": {"4": judge.row([found] * 2)}},
    }
    report["goals"] = [goal.to_json() for goal in judge.goals_of(report)]
    return report


def missed(**changed: Any) -> list[str]:
    return [goal["name"] for goal in report_of(**changed)["goals"] if not goal["reached"]]


def test_perfect_videos_reach_every_goal() -> None:
    assert missed() == []
    assert len(report_of()["goals"]) == 14


@pytest.mark.parametrize(
    ("changed", "goal"),
    [
        ({"correlation": 0.7}, "mouth: correlation of the opening"),
        ({"closures": {"wanted": 4, "found": 1, "shown": 1, "right": 1}}, "mouth: closures at m b p that are found"),
        ({"closures": {"wanted": 4, "found": 4, "shown": 8, "right": 4}}, "mouth: closures that are right"),
        ({"openings": 6}, "mouth: openings for every vowel"),
        ({"onset_lag": -3}, "mouth: lag of the onset, pictures (median)"),
        ({"saturation_first": 0.9}, "first picture: saturation, of the reference's"),
        ({"flash": 2.0}, "first pictures: distance in colour, of later spread (median)"),
        ({"own_iris": False}, "eyes: share of irises nearest to their own colour"),
        ({"blinks_per_minute": 3.0}, "eyes: blinks a minute, least"),
        ({"blinks_per_minute": 50.0}, "eyes: blinks a minute, most"),
        ({"blink_pictures": None}, "eyes: pictures of a blink"),
        ({"drift": {"colour": (0.1, 0.3), "face": (-1, 1)}}, "drift of colour: slope's interval misses 0 by"),
        ({"drift": {"colour": (-1, 1), "face": (-0.3, -0.1)}}, "drift of face: slope's interval misses 0 by"),
        ({"borders": {"count": 4, "whole": 1.9}}, "windows: difference at borders"),
    ],
)
def test_what_is_bad_misses_its_own_goal(changed: dict[str, Any], goal: str) -> None:
    assert missed(**changed) == [goal]


def test_a_video_that_never_closes_reaches_no_precision() -> None:
    none = {"wanted": 4, "found": 0, "shown": 0, "right": 0}
    assert set(missed(closures=none)) == {
        "mouth: closures at m b p that are found",
        "mouth: closures that are right",
    }


def test_a_look_has_goals_of_its_own() -> None:
    report = report_of()
    for after, correlation, reached in ((10.0, 0.8, [True, True]), (30.0, 0.7, [False, False])):
        dressed = [{**PERFECT, "look": after, "correlation": correlation}] * 4
        report["lora"] = judge.of_lora([{**PERFECT, "look": 40.0}] * 4, dressed)
        assert report["lora"]["ratio"] == after / 40
        assert [goal.reached for goal in judge.goals_of(report)][-2:] == reached


def test_the_report_reads_as_tables_and_diagrams() -> None:
    report = report_of()
    text = judge.to_markdown(report)
    assert "| mouth: correlation of the opening | 0.95 | at least 0.8 | yes |" in text
    assert "4 of 4" in text and "| 4 | 0.95 |" in text
    titles = [panel.title for panel in judge.panels_of(report, [PERFECT] * 4)]
    assert titles[0] == "held-out pair 0: correlation 0.95" and len(titles) == 4
