"""Tests with the tables of docs/: their numbers are those that the program calculates."""

from __future__ import annotations

import re

from pages import ROOT

from avatarctl.networks.cards import TEN, card_named
from avatarctl.networks.devices import COMPILE_FROM_PASSES
from avatarctl.networks.dims import TRANSFORMER_1_3B
from avatarctl.networks.memory import Workload, estimate
from avatarctl.networks.tiling import small_tiling
from avatarctl.render.machine import of_card
from avatarctl.render.timing import time_of
from avatarctl.sampling.passes import passes_of
from avatarctl.sampling.windows import SAMPLE_RATE_HZ, plan_windows
from avatarctl.settings import presets
from avatarctl.settings.check import make
from avatarctl.settings.placement import PlacementSettings
from avatarctl.settings.render import AllSettings, RenderSettings

GIB = 2**30
ROW = re.compile(r"^\| (\d+)x(\d+) \| `(\w+)` \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", re.M)
CARD = re.compile(r"^\| ([\w ]+?), (\d+) GB \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", re.M)
THREE = ("draft", "square", "portrait")
VIDEO_S = 60


def memory_rows() -> list[str]:
    """Return the rows of the table of memory."""
    rows = []
    for size in ((512, 512), (480, 832)):
        for mode in ("full", "model", "group", "sequential"):
            tiles = small_tiling(*size)
            found = [
                estimate(TRANSFORMER_1_3B, *size, memory=mode, vae_bytes=2, tiling=tiling, float8=float8).peak / GIB
                for tiling, float8 in ((None, False), (tiles, False), (tiles, True))
            ]
            rows.append(f"| {size[0]}x{size[1]} | `{mode}` | {' | '.join(f'{each:.1f}' for each in found)} |")
    return rows


def time_rows() -> list[str]:
    """Return the rows of the table of time: seconds per second of video."""
    rows = []
    for name in TEN:
        card, found = card_named(name), []
        for preset in THREE:
            every = make(AllSettings, presets.load(preset).values)
            settings = every.part(RenderSettings)
            plan = plan_windows(SAMPLE_RATE_HZ * VIDEO_S, settings.fps, settings.window, settings.overlap)
            passes = passes_of(settings)
            work = Workload(TRANSFORMER_1_3B, *settings.size, settings.window, passes=plan.count * passes.total)
            machine = of_card(card, every.part(PlacementSettings), work, COMPILE_FROM_PASSES)
            per_second = time_of(plan, work, passes, machine).total_s / VIDEO_S
            found.append(f"{per_second:.0f}" if per_second >= 20 else f"{per_second:.1f}")
        rows.append(f"| {name}, {card.memory:.0f} GB | {' | '.join(found)} |")
    return rows


def test_the_memory_table_is_calculated() -> None:
    page = (ROOT / "docs" / "long-renders.md").read_text(encoding="utf-8")
    assert [match.group(0) for match in ROW.finditer(page)] == memory_rows()


def test_the_table_of_time_is_calculated() -> None:
    page = (ROOT / "docs" / "make-a-video.md").read_text(encoding="utf-8")
    assert [match.group(0) for match in CARD.finditer(page)] == time_rows()
