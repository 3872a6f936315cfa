"""Tests with the tables of docs/: their numbers are those that the program calculates."""

from __future__ import annotations

import re

from pages import ROOT

from avatarctl.networks.dims import TRANSFORMER_1_3B
from avatarctl.networks.memory import estimate

GIB = 2**30
ROW = re.compile(r"^\| (\d+)x(\d+) \| `(\w+)` \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", re.M)


def test_the_memory_table_is_calculated() -> None:
    rows = ROW.findall((ROOT / "docs" / "long-renders.md").read_text(encoding="utf-8"))
    assert len(rows) == 8
    for width, height, mode, *shown in rows:
        size = (int(width), int(height))
        found = [
            estimate(TRANSFORMER_1_3B, *size, memory=mode).peak / GIB,
            estimate(TRANSFORMER_1_3B, *size, memory=mode, tile_px=256).peak / GIB,
            estimate(TRANSFORMER_1_3B, *size, memory=mode, tile_px=256, float8=True).peak / GIB,
        ]
        assert [f"{each:.1f}" for each in found] == shown, (size, mode, found)
