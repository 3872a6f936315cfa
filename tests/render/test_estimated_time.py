"""Tests with the time that a dry run calculates: for this machine and for published GPUs, with passes counted rightly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from workshop import Case

from avatarctl.errors import UsageError
from avatarctl.networks.cards import CARDS, PAGEABLE, TEN, Rates, card_named
from avatarctl.networks.dims import TRANSFORMER_1_3B
from avatarctl.networks.flops import Operations
from avatarctl.networks.memory import Workload, transformer_bytes
from avatarctl.render.machine import of_card
from avatarctl.render.timing import seconds, time_of
from avatarctl.sampling.passes import passes_of
from avatarctl.sampling.windows import plan_windows
from avatarctl.settings.placement import PlacementSettings
from avatarctl.settings.render import RenderSettings


def planned(case: Case, *flags: str, **environment: str) -> dict[str, Any]:
    """Return what a dry run tells programs."""
    attempt = case.generate("--dry-run", "--json", *flags, **environment)
    assert attempt.status == 0, attempt.log
    return json.JSONDecoder().raw_decode(attempt.log[attempt.log.index("{\n") :])[0]["data"]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("4090", "RTX 4090"),
        ("rtx4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("4060ti", "RTX 4060 Ti"),
        ("h100", "H100"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("Tesla T4", "T4"),
    ],
)
def test_cards_by_the_names_that_people_use(name: str, found: str) -> None:
    assert card_named(name).name == found


def test_an_unknown_card_is_an_error_that_names_those_that_are_known() -> None:
    with pytest.raises(
        UsageError, match="got '4091', expected a GPU with published figures, did you mean RTX 40"
    ) as caught:
        card_named("4091")
    assert all(card.name in caught.value.hint for card in CARDS)
    assert len(TEN) == 10 and all(card_named(name) for name in TEN)


def test_what_is_moved_and_called_counts_beside_operations() -> None:
    rates = Rates(10, 5, 2, 100, 0.1, overlaps=False)
    work = Operations(products=20, attention=10, convolutions=4, moved=50, calls=5)
    assert seconds(work, rates) == pytest.approx(2 + 2 + 2 + 0.5 + 0.5)
    assert seconds(work, Rates(10, 5, 2, 100, 3, overlaps=True)) == pytest.approx(15), "a device that waits for calls"


def test_faster_cards_take_less_and_passes_decide() -> None:
    plan = plan_windows(16000 * 60, RenderSettings().fps)
    times = {}
    for name in ("T4", "RTX 3090", "RTX 4090", "H100"):
        work = Workload(TRANSFORMER_1_3B, 512, 512, passes=10_000)
        machine = of_card(card_named(name), PlacementSettings(), work, 500)
        times[name] = [
            time_of(plan, work, passes_of(RenderSettings(**each)), machine).sampling_s
            for each in ({}, {"guidance": "none"}, {"guidance_reuse": 2})
        ]
        assert machine.compiled and (machine.fit is not None) and machine.fit.fits
    whole = [each[0] for each in times.values()]
    assert whole == sorted(whole, reverse=True)
    for three, one, two in times.values():
        assert 0.3 < one / three < 0.36 and 0.6 < two / three < 0.7
    small = of_card(
        card_named("3060"), PlacementSettings(memory="sequential"), Workload(TRANSFORMER_1_3B, 512, 512), 500
    )
    assert small.memory == "sequential" and not small.compiled


def test_weights_that_come_for_each_pass_take_their_time() -> None:
    plan = plan_windows(16000 * 60, RenderSettings().fps)
    passes, rates, times = passes_of(RenderSettings()), card_named("4090").rates, {}
    for width, memory in ((512, "model"), (512, "group"), (512, "sequential"), (64, "model"), (64, "group")):
        work = Workload(TRANSFORMER_1_3B, width, width, passes=10_000)
        machine = of_card(card_named("4090"), PlacementSettings(memory=memory, compile=False), work, 500)
        times[width, memory] = time_of(plan, work, passes, machine).sampling_s
    # Large passes hide the transport of blocks, small ones wait for it, single layers always do.
    assert times[512, "group"] == times[512, "model"] and times[64, "group"] > 2 * times[64, "model"]
    weights = transformer_bytes(TRANSFORMER_1_3B, 2, False)
    coming = plan.count * passes.total * weights
    assert times[64, "group"] == pytest.approx(coming / rates.link)
    assert times[512, "sequential"] == pytest.approx(times[512, "model"] + coming / PAGEABLE)


def test_a_published_gpu(case: Case) -> None:
    told = planned(case, "--for", "4090", "--device", "auto")
    assert told["time_basis"] == "calculated from published figures of the RTX 4090" and told["time_s"] > 0
    assert told["memory"] == "full" and told["free_bytes"] > 20 * 2**30 > told["memory_bytes"]
    assert sum(told["times"].values()) == pytest.approx(told["time_s"], abs=0.01)
    said = case.generate("--dry-run", "--for", "T4").log
    assert "calculated from published figures of the T4" in said and "full: " in said


def test_for_another_gpu_is_a_question_for_dry_runs_alone(case: Case) -> None:
    refused = case.generate("--for", "4090")
    assert refused.status == 2 and "add --dry-run" in refused.log
    float8 = ("--weights-dtype", "float8", "--matmul-dtype", "float8")
    refused = case.generate("--dry-run", "--for", "3090", *float8)
    assert refused.status == 8 and "the RTX 3090 doesn't multiply float8 matrices" in refused.log
    assert planned(case, "--for", "H100", *float8)["time_s"] > 0, "whatever this machine can't do"
    unknown = case.generate("--dry-run", "--for", "voodoo")
    assert unknown.status == 2 and "known: T4, V100" in unknown.log
    assert not case.render.exists()


def test_this_machine_is_measured_once(case: Case, tmp_path: Path) -> None:
    home = {"AVATARCTL_HOME": str(tmp_path / "home")}  # where no render was finished before
    first = planned(case, **home)
    assert first["time_basis"] == "calculated from what this CPU reaches" and 0 < first["time_s"] < 60
    (rates,) = (tmp_path / "home").rglob("rates.json")
    before = rates.stat().st_mtime_ns
    assert planned(case, **home)["time_s"] == first["time_s"]
    assert rates.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("flags", "passes"),
    [
        ((), 6),
        (("--guidance", "none"), 2),
        (("--guidance-reuse", "2"), 4),
        (("--guidance-interval", "0.95:1"), 4),
        (("--audio-scale", "3"), 4),
    ],
    ids=str,
)
def test_passes_are_those_that_run(flags: tuple[str, ...], passes: int, case: Case) -> None:
    told = planned(case, "--steps", "2", "--for", "H100", *flags)
    assert told["passes"] == passes * told["windows"] and told["window_steps"] == 2 * told["windows"]


def test_a_flag_takes_away_what_else_narrows_guidance(case: Case) -> None:
    narrow = {"AVATARCTL_GUIDANCE_INTERVAL": "0.95:1"}
    for flags, passes in (((), 4), (("--guidance-interval", "always"), 6)):
        told = planned(case, "--steps", "2", "--for", "H100", *flags, **narrow)
        assert told["passes"] == passes * told["windows"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--guidance-interval", "0.9:0.2"), "expected 0 <= low < high <= 1"),
        (("--guidance-interval", "half"), "expected two noise levels such as 0.2:0.9, or always"),
        (("--guidance-reuse", "0"), "guidance_reuse"),
        (("--attention", "flsh", "--dtype", "float32"), "got 'flsh', expected auto or one of"),
        (("--matmul-dtype", "float8"), "got weights_dtype same, expected float8"),
        (("--matmul-dtype", "float8", "--weights-dtype", "float8"), "doesn't multiply float8 matrices"),
        (("--memory", "sequential", "--compile"), "compile with memory mode sequential"),
        (("--weights-dtype", "float8", "--dtype", "float16"), "float8 weights with float16"),
    ],
    ids=str,
)
def test_flags_that_cannot_be_are_refused_by_dry_run_and_render(flags: tuple[str, ...], words: str, case: Case) -> None:
    dry, real = case.generate("--dry-run", *flags), case.generate(*flags)
    assert dry.status == real.status != 0
    assert words in " ".join(dry.log.split()) and words in " ".join(real.log.split())
    assert not case.render.exists()
