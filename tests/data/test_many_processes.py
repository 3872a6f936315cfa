"""Tests with processes that encode at once, are killed or meet a full disk: one whole set of samples, none twice."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import footage
import pytest
import torch

from avatarctl.data.shard_writer import ShardWriter
from avatarctl.data.shards import Index, Sample

Encode = Callable[..., footage.Ended]
Start = Callable[..., footage.Command]
CLIPS = 9


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine clips of one to three windows."""
    folder = tmp_path_factory.mktemp("source")
    for number in range(CLIPS):
        footage.video(folder / f"{number:02d}.mkv", 9 * (1 + number % 3), seed=number)
    return folder


@pytest.fixture
def expected(source: Path, tmp_path: Path, encode: Encode) -> dict[str, Any]:
    """What one process makes, undisturbed."""
    encode(source, tmp_path / "straight")
    return footage.contents(tmp_path / "straight")


def check_same(cache: Path, expected: dict[str, Any]) -> None:
    """Compare a cache with what one process makes: same samples, all readable, none twice, equal to the bit."""
    found = footage.contents(cache)
    assert found.keys() == expected.keys()
    for key, sample in found.items():
        for name, value in sample.items():
            same = (
                torch.equal(value, expected[key][name])
                if isinstance(value, torch.Tensor)
                else value == expected[key][name]
            )
            assert same, (key, name)


def test_two_processes_share_the_work(source: Path, tmp_path: Path, start: Start, expected: dict[str, Any]) -> None:
    both = [start(source, tmp_path / "cache", "--json") for _ in range(2)]
    data = [each.end().data for each in both]
    assert sum(each["encoded"] for each in data) == CLIPS
    assert all(each["encoded"] + each["known"] == CLIPS and each["samples"] == len(expected) for each in data)
    assert all(each["encoded"] for each in data), "one did all of it"
    check_same(tmp_path / "cache", expected)


def test_kills_at_random_instants(source: Path, tmp_path: Path, start: Start, expected: dict[str, Any]) -> None:
    chance, cache = random.Random(5), tmp_path / "cache"
    done = []
    for _ in range(6):
        both = [start(source, cache) for _ in range(2)]
        for each in both:
            time.sleep(chance.uniform(0.05, 0.5))
            each.process.kill()
        assert {each.process.join() or each.process.exitcode for each in both} <= {-signal.SIGKILL, 0}
        done.append(len(Index(cache).clips) if cache.exists() else 0)
    assert done == sorted(done), "what was listed got lost"
    both = [start(source, cache) for _ in range(2)]
    assert [each.end().status for each in both] == [0, 0]
    assert min(done) < CLIPS, "killed too late to matter"
    check_same(cache, expected)


def test_a_killed_process_loses_one_clip(source: Path, tmp_path: Path, start: Start, encode: Encode) -> None:
    cache = tmp_path / "cache"
    running = start(source, cache)
    while not cache.exists() or len(Index(cache).clips) < 4:
        time.sleep(0.01)
        assert running.process.is_alive()
    running.process.kill()
    running.process.join()
    listed = len(Index(cache).clips)
    assert encode(source, cache).data["encoded"] == CLIPS - listed < CLIPS


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_and_the_same_command_goes_on(
    source: Path, tmp_path: Path, start: Start, encode: Encode, number: int
) -> None:
    cache = tmp_path / "cache"
    running = start(source, cache)
    while not cache.exists() or not Index(cache).clips:
        time.sleep(0.01)
        assert running.process.is_alive()
    assert running.process.pid is not None
    os.kill(running.process.pid, number)
    ended = running.end()
    assert (
        ended.status == 128 + number
        and "run the same command again to continue" in ended.log
        and "Traceback" not in ended.log
    )
    data = encode(source, cache).data
    assert data["known"] >= 1 and data["encoded"] > 0 and data["known"] + data["encoded"] == CLIPS


def test_force_takes_nothing_from_another_process(
    source: Path, tmp_path: Path, start: Start, expected: dict[str, Any]
) -> None:
    cache = tmp_path / "straight"
    with ShardWriter(cache):
        ended = start(source, cache, "--force").end()
        assert ended.status == 6 and "another process is encoding" in ended.log
    ended = start(source, cache, "--force", WORLD_SIZE="2").end()
    assert ended.status == 2 and "expected one" in ended.log
    check_same(cache, expected)


@pytest.mark.parametrize("at", range(1, 7))
def test_an_interruption_at_a_flush_leaves_nothing_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    flush, seen = os.fsync, iter(range(1, 100))

    def interrupted(handle: int) -> None:
        flush(handle)
        if next(seen) == at:
            raise KeyboardInterrupt

    def add(writer: ShardWriter, key: str) -> None:
        tensors = {"latents": torch.rand(4, 2, 3, 3), "condition": torch.zeros(8, 2, 3, 3), "speech": torch.zeros(5, 2)}
        writer.add(key, "hash", (Sample(f"{key}-{number}", tensors, {}) for number in range(2)))

    other = Index(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt), ShardWriter(tmp_path) as writer:
        patch.setattr(os, "fsync", interrupted)
        for number in range(10):
            add(writer, f"c{number}")
            other.look()
    listed = set(Index(tmp_path).clips)
    footage.contents(tmp_path)
    with ShardWriter(tmp_path) as writer:
        add(writer, "last")
    other.look()
    assert set(other.clips) == set(Index(tmp_path).clips) == listed | {"last"}
    assert len(footage.contents(tmp_path)) == 2 * len(other.clips)


# -- A full disk -------------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Return a disk of so many KiB, the same one at each call; needs the right to mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if shutil.which("mount") is None or mount(folder, "size=16k"):
        pytest.skip("no right to mount a small disk")

    def sized(size_kib: int) -> Path:
        assert mount(folder, f"remount,size={size_kib}k") == 0
        return folder

    yield sized
    subprocess.run(["umount", folder], check=True)


def mount(folder: Path, options: str) -> int:
    """Mount a disk in memory; return the exit status."""
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return subprocess.run(command, stderr=subprocess.DEVNULL).returncode


def test_a_full_disk(
    source: Path, tmp_path: Path, start: Start, expected: dict[str, Any], disk: Callable[[int], Path]
) -> None:
    stops = []
    for size_kib in (16, 160, 320, 480, 1000, 4000):
        cache = disk(size_kib) / "cache"
        ended = start(source, cache).end()
        if ended.status == 0:
            break
        assert ended.status == 8 and "the disk is full" in ended.log and "Traceback" not in ended.log, ended.log
        stops.append(len(footage.contents(cache)))  # all readable
    check_same(cache, expected)
    assert len(stops) >= 3 and stops == sorted(stops) and 0 < stops[-1] < len(expected), stops


def test_a_full_disk_for_the_sound(
    source: Path, tmp_path: Path, start: Start, encode: Encode, disk: Callable[[int], Path]
) -> None:
    footage.clip_folder(tmp_path / "in" / "00001", frames=100)  # 256 kB of sound
    ended = start(tmp_path / "in", tmp_path / "cache", TMPDIR=str(disk(64))).end()
    assert ended.status == 8 and "TMPDIR" in ended.log and "Traceback" not in ended.log, ended.log
    assert Index(tmp_path / "cache").clips == {}, "a full disk is no fault of the clip"
    assert encode(tmp_path / "in", tmp_path / "cache").data["encoded"] == 1


def test_a_full_disk_at_some_write(source: Path, tmp_path: Path, start: Start, expected: dict[str, Any]) -> None:
    cache = tmp_path / "cache"
    for at in (1, 2, 5, 8, 9, 10, 11, 12):
        ended = start(source, cache, FULL_INSIDE=str(cache), FULL_AT=str(at)).end()
        assert ended.status == 8 and "the disk is full" in ended.log and "Traceback" not in ended.log, (at, ended.log)
        if (cache / "index").exists():
            footage.contents(cache)  # all readable
    assert start(source, cache).end().status == 0
    check_same(cache, expected)
