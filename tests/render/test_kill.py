"""Tests with renders killed at random instants and at every single write: they go on to the same video, to the byte."""

from __future__ import annotations

import itertools
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from served import Attempt, Server, kill_after
from workshop import Case, seeded, straight

SIGKILLED = -9
NewCase = Callable[..., Case]


@pytest.fixture(scope="module")
def long_bytes(studio: Path, server: Server, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The video of the longer recording, rendered without interruption."""
    return straight(Case(studio, server, tmp_path_factory.mktemp("straight") / "case", "long.wav"))


@pytest.fixture(scope="module")
def short_bytes(studio: Path, server: Server, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The video of the shorter recording, rendered without interruption."""
    return straight(Case(studio, server, tmp_path_factory.mktemp("straight") / "case"))


# How often a checkpoint is made: after each window step, before the next; in a thread beside sampling, seldom and often.
EVERY_S = ("0", "0.15", "0.01")


# 25 each: 200 kills in eight parts, with seeds of their own.
PARTS = [pytest.param(part, marks=pytest.mark.long, id=f"part{part}") for part in range(1, 9)]


@pytest.mark.parametrize("part", [pytest.param(0, id="some", marks=pytest.mark.long), *PARTS])
def test_kills_at_random_instants_cost_no_saved_work_and_no_bit(
    new_case: NewCase, long_bytes: bytes, part: int
) -> None:
    chance = seeded(f"kills {part}")
    began = time.monotonic()
    straight(new_case("timed", audio="long.wav"))
    latest_s = min(max(0.9, 0.8 * (time.monotonic() - began)), 4.0)  # a busy machine takes longer to get anywhere
    kills: list[int] = []
    for number in itertools.count():
        case = new_case(f"render{number}", audio="long.wav")
        every_s = EVERY_S[number % len(EVERY_S)]
        reported = 0
        for attempt, saved in attempts(case, every_s, lambda: chance.uniform(0.05, latest_s), most=6):
            steps = attempt.steps()
            if steps:  # else it was killed before its first window step, or had only pictures left to do
                begun_from = steps[0] - 1
                assert begun_from >= saved, "a saved window step was computed again"
                # A report follows the checkpoint of its window step: with one after every step, only the step that
                # the kill cut short is lost.
                assert begun_from >= reported or every_s != "0"
                reported = steps[-1]
            if attempt.status == SIGKILLED:
                kills.append(reported)
        assert case.bytes() == long_bytes
        assert done(case)
        shutil.rmtree(case.folder)
        if len(kills) >= (25 if part else 12):
            break
    # How far the instants spread over the run depends on the machine's speed; some have to fall between window steps.
    assert any(kills)
    sys.stdout.write(f"{len(kills)} kills in {number + 1} renders\n")


def done(case: Case) -> bool:
    """Return whether the video is there and its render is gone, but perhaps for the lock."""
    left = {entry.name for entry in case.render.iterdir()} if case.render.is_dir() else set()
    return case.output.exists() and left <= {"delivered.json", "holder.json", "lock"}


def attempts(case: Case, every_s: str, delay_s: Callable[[], float], most: int) -> Iterator[tuple[Attempt, int]]:
    """Run `generate` and kill it, again and again, at last without a kill; give also the steps saved before."""
    for number in itertools.count():
        saved = case.checkpoint()
        meanwhile = kill_after(delay_s()) if number < most else None
        attempt = case.generate("--checkpoint-every", every_s, meanwhile=meanwhile)
        yield attempt, saved
        if attempt.status == 0:
            return
        assert attempt.status == SIGKILLED, attempt.log
        if done(case):
            return  # killed when everything was done, on its way out


def test_a_kill_at_a_write_costs_no_bit(new_case: NewCase, short_bytes: bytes) -> None:
    assert kill_at_writes(new_case, short_bytes, first=3, step=11) > 6


@pytest.mark.long
def test_a_kill_at_any_write_costs_no_bit(new_case: NewCase, short_bytes: bytes) -> None:
    assert kill_at_writes(new_case, short_bytes, first=1, step=1) > 80


def kill_at_writes(new_case: NewCase, expected: bytes, first: int, step: int) -> int:
    """Kill a render at its n-th change of a file, resume it, for growing n until there are no more; return their number."""
    for number in itertools.count(first, step):
        case = new_case(f"write{number}")
        attempt = case.generate(fault="kill", at=number)
        if attempt.status == SIGKILLED:
            if not done(case):
                attempt = case.generate()
                assert attempt.status == 0, f"write {number}: {attempt.log}"
                assert not case.render.exists(), f"write {number}"
            assert case.bytes() == expected, f"write {number}"
            assert {path.name for path in case.folder.iterdir()} <= {"attempt.log", "talk.mp4", case.render.name}, (
                number
            )
            continue
        assert attempt.status == 0, attempt.log
        return number // step
    raise AssertionError
