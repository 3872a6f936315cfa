"""Tests with batches whose driver and workers are killed at random instants: the same videos, none made twice."""

from __future__ import annotations

import random
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from desk import Bench, kill, wait_for, workers

from avatarctl.paths import embedded_avatar

ORPHAN_S = 60  # a worker whose driver is gone ends after its window step


def ordeal(bench: Bench, source: Path, flags: list[str], kills: int, chance: random.Random) -> int:
    """Run a batch again and again, killing workers, its driver, or all, until it is done; give how many kills met it at work.

    What had its record when the driver was killed has to be the same file, untouched, at the end.
    """
    made: dict[str, tuple[int, bytes]] = {}
    met = 0
    for number in range(10 * kills):
        driver = bench.start(source, *flags, "--retry", "9")
        if met < kills:
            met += strike(driver, number, chance)
        driver.communicate(timeout=600)
        now = bench.records()
        for name, known in made.items():
            assert now[name] == known, f"{name} was made twice"
        made = {name: now[name] for name in now if name.endswith(".json") or f"{name}.json" in now}
        if driver.returncode == 0:
            return met
    raise AssertionError("it never ended")


def strike(driver: subprocess.Popen[str], number: int, chance: random.Random) -> int:
    """Kill a worker now and then, and at last the driver, every other time with its workers; give how many kills met them."""
    wait_for(lambda: driver.poll() is not None or workers(driver), 30)
    met = 0
    for _ in range(chance.randint(0, 2)):
        time.sleep(chance.uniform(0, 8))
        for one in workers(driver)[:1]:
            kill(one)
            met += 1
    time.sleep(chance.uniform(0, 8))
    hired = workers(driver)
    met += driver.poll() is None
    kill(driver)
    if number % 2 == 0:
        for one in hired:
            kill(one)
    if number % 4 != 1:  # else the next batch meets workers of this one, still at work
        # A killed worker is nobody's child: gone, or about to be.
        wait_for(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in hired), ORPHAN_S)
    return met


def compare(bench: Bench, straight: dict[str, bytes]) -> None:
    """Compare every video with that of a straight run; nothing else may be left."""
    assert {path.name: path.read_bytes() for path in bench.output.glob("*.mp4")} == straight
    assert not list(bench.output.rglob("*.render")) and not list(bench.output.rglob("*.part"))


@pytest.mark.long
def test_kills_of_driver_and_workers_cost_no_bit_and_no_video_twice(bench: Bench) -> None:
    source = bench.voices(1.2, 1.8, 1.2, 1.8)
    assert bench.run(source, "--jobs", "1").status == 0
    straight = {path.name: path.read_bytes() for path in bench.output.glob("*.mp4")}
    bench.output.rename(bench.folder / "straight")
    assert ordeal(bench, source, ["--jobs", "2"], 4, random.Random("batch")) >= 1
    compare(bench, straight)


@pytest.mark.long
def test_forty_videos_of_the_embedded_avatar_survive_kills_at_random_instants(bench: Bench) -> None:
    source = bench.voices(*(0.8 + number % 5 * 0.4 for number in range(40)))
    avatar = embedded_avatar()
    flags = ["--preset", "puppet", "--weights", str(avatar / "weights"), "--image", str(avatar / "samples/picture.png")]
    assert bench.run(source, *flags, "--jobs", "1").status == 0
    straight = {path.name: path.read_bytes() for path in bench.output.glob("*.mp4")}
    assert len(straight) == 40
    bench.output.rename(bench.folder / "straight")
    assert ordeal(bench, source, [*flags, "--jobs", "2"], 12, random.Random("forty")) >= 10
    compare(bench, straight)
