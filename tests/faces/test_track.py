"""Tests with drawn and photographed faces that move: tracks, shots, gaps, and what is measured along the way."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from scenes import scene

from avatarctl.faces.find import Face
from avatarctl.faces.track import BRIDGED_S, Look, follow

FPS = Fraction(25)


def looks(pictures: list[np.ndarray]) -> list[Look]:
    return list(follow(iter(pictures), FPS))


def moving(count: int, x: int = 40, step: int = 2) -> list[np.ndarray]:
    return [scene(640, 360, x + step * number, 30, side=300) for number in range(count)]


def test_a_face_that_moves_is_one_track_and_its_points_move_along() -> None:
    found = looks(moving(30))
    assert [look.number for look in found] == list(range(30)) and found[10].time_s == 0.4
    assert {seen.track for look in found for seen in look.faces} == {0}
    assert all(len(look.faces) == 1 and look.shot == 0 and not look.mixed for look in found)
    boxes = np.array([look.faces[0].face.box for look in found])
    assert np.abs(np.diff(boxes[:, 0]) - 2).max() < 3 and abs(boxes[-1, 0] - boxes[0, 0] - 58) < 4
    assert [look.number for look in found if look.faces[0].identity is not None] == [0, 10, 20]


def test_a_short_gap_is_bridged_and_a_long_one_ends_the_track() -> None:
    away = [np.full((360, 640, 3), (96, 100, 110), np.uint8)]
    most = round(BRIDGED_S * FPS)
    for gap, tracks in ((most - 3, {0}), (most + 5, {0, 1})):
        pictures = moving(10, step=0) + away * gap + moving(10, step=0)
        found = list(follow(iter(pictures), FPS, cuts=False))
        assert {seen.track for look in found for seen in look.faces} == tracks, gap
        between = [look.faces for look in found[10 : 10 + gap]]
        if tracks == {0}:
            assert all(len(faces) == 1 and faces[0].bridged and faces[0].face.presence <= 0.5 for faces in between)
        else:
            assert all(not faces for faces in between)


def test_a_cut_ends_all_tracks_at_its_picture() -> None:
    other = [np.roll(picture[..., ::-1], 200, axis=1) for picture in moving(12, x=10)]
    found = looks(moving(17) + other)
    assert [look.shot for look in found] == [0] * 17 + [1] * 12
    assert {look.faces[0].track for look in found[:17]} == {0} and {seen.track for seen in found[17].faces} == {1}


def test_what_the_caller_measures_comes_with_each_face() -> None:
    def measure(picture: np.ndarray, face: Face) -> float:
        return float(picture.mean())

    pictures = [scene(400, 400, 0, 0) // (number + 1) for number in range(3)]
    values = [look.faces[0].measured for look in follow(iter(pictures), FPS, measure=measure, cuts=False)]
    assert values[0] > values[1] > values[2]
