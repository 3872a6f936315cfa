"""Tests with tiles of the VAE: the fewest that fit, none where a picture is small, and their names."""

from __future__ import annotations

import itertools

import pytest

from avatarctl.errors import UsageError
from avatarctl.networks.tiling import Tiling, small_tiling, starts, tiling_named, tilings

SIZES = [(512, 512), (480, 832), (832, 480), (1024, 576), (64, 1024), (336, 592), (4096, 4096)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_tiles_cover_the_picture_evenly_and_each_way_needs_less_than_the_one_before(size: tuple[int, int]) -> None:
    width, height = size
    pixels, work = width * height, 1.0
    for tiling in tilings(width, height):
        rows, columns = map(int, tiling.name(width, height).split("x"))
        assert rows * columns > 1
        for length, side, count in ((height, tiling.size_px, rows), (width, tiling.columns_px, columns)):
            places = starts(length // 8, side // 8, tiling.overlap_px // 8)
            assert len(places) == count and places[-1] + side // 8 >= length // 8
            assert all(
                after - before <= (side - tiling.overlap_px) // 8 for before, after in itertools.pairwise(places)
            )
        assert tiling.pixels(width, height) < pixels and tiling.work(width, height) >= work
        pixels, work = tiling.pixels(width, height), tiling.work(width, height)
        assert tiling_named(tiling.name(width, height), width, height) == tiling


def test_the_ways_at_the_sizes_that_the_weights_know() -> None:
    ways = {each.name(512, 512): (each.size_px, each.columns_px) for each in tilings(512, 512)}
    assert list(ways)[:3] == ["1x2", "1x3", "2x2"] and ways["2x2"] == (288, 288)
    assert small_tiling(512, 512) == Tiling(288, 64, 288)
    assert small_tiling(480, 832) == Tiling(320, 64, 272)
    assert small_tiling(320, 320) is None and tilings(64, 64) == []


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(UsageError, match="got '7x9' at 64x64, expected one of none"):
        tiling_named("7x9", 64, 64)
