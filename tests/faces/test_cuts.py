"""Tests with moving photographs: hard cuts at their picture, dissolves and fades where they are, and no others."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image
from scenes import photograph

from avatarctl.faces.cuts import Cut, CutFinder

Show = Callable[[int], np.ndarray]
NAMES = ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg", "motorcycle_left.png")


def pan(name: str, speed: float = 0.8) -> Show:
    """Return a photograph over which a camera moves, with noise."""
    picture = Image.fromarray(photograph(name)).resize((130, 90))
    chance = np.random.default_rng(1)

    def show(number: int) -> np.ndarray:
        x, y = 15 + 12 * np.sin(speed * number / 25), 10 + 7 * np.sin(1.3 * speed * number / 25)
        part = picture.transform((100, 70), Image.Transform.AFFINE, (1, 0, x, 0, 1, y), Image.Resampling.BILINEAR)
        return (np.asarray(part) + chance.normal(0, 3, (70, 100, 3))).clip(0, 255).astype(np.uint8)

    return show


def cuts(show: Show, count: int, fps: Fraction = Fraction(25)) -> list[Cut]:
    finder = CutFinder(fps)
    found = [cut for number in range(count) for cut in finder.push(show(number))]
    return [*found, *finder.end()]


@pytest.mark.parametrize(("before", "after"), [(NAMES[n], NAMES[(n + 1) % 5]) for n in range(5)])
def test_a_cut_is_found_at_its_picture(before: str, after: str) -> None:
    one, other = pan(before), pan(after)
    assert cuts(lambda number: one(number) if number < 31 else other(number), 60) == [Cut(31, 31)]
    assert cuts(lambda number: one(number) if number < 57 else other(number), 60) == [Cut(57, 57)]  # near the end


def test_two_cuts_one_second_apart() -> None:
    one, other, third = (pan(name) for name in NAMES[:3])
    found = cuts(lambda number: (one if number < 20 else other if number < 45 else third)(number), 80)
    assert found == [Cut(20, 20), Cut(45, 45)]


@pytest.mark.parametrize("length", [8, 15, 30])
def test_a_dissolve_is_found_where_it_is(length: int) -> None:
    one, other = pan("astronaut.png", 0.3), pan("coffee.png", 0.3)

    def show(number: int) -> np.ndarray:
        share = np.clip((number - 60) / length, 0, 1)
        return ((1 - share) * one(number) + share * other(number)).astype(np.uint8)

    [found] = cuts(show, 160)
    assert abs(found.first - 60) <= 4 and abs(found.last - 60 - length) <= 4


def test_a_fade_to_black_and_back() -> None:
    one, other = pan("chelsea.png", 0.3), pan("rocket.jpg", 0.3)

    def show(number: int) -> np.ndarray:
        light = np.clip(abs(number - 75) / 15 - 0.6, 0, 1)
        return (light * (one if number < 75 else other)(number)).astype(np.uint8)

    found = cuts(show, 170)
    assert found and all(45 <= cut.first <= cut.last <= 105 for cut in found)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_cut(name: str) -> None:
    still, fast = pan(name), pan(name, 10)
    assert cuts(fast, 60) == [], "a fast pan"
    dimmed = lambda number: (still(number) * (1 - 0.6 * np.clip((number - 40) / 15, 0, 1))).astype(np.uint8)  # noqa: E731
    assert cuts(dimmed, 120) == [], "a lamp that is dimmed"
    flash = lambda number: np.minimum(still(number) + np.array(140 * (number in (30, 31))), 255).astype(np.uint8)  # noqa: E731
    assert cuts(flash, 60) == [], "a flash"


def test_pictures_that_stand_twice_are_no_cuts() -> None:
    """12 pictures a second shown as 25: every other one changes."""
    show = pan("astronaut.png", 5)
    assert cuts(lambda number: show(2 * (number // 2)), 80) == []
