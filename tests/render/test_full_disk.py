"""Tests with renders whose disk is full at some write: the error, a valid folder, and the same video once there is room."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from workshop import Case, Server, straight

NewCase = Callable[..., Case]
FULL = 8
MOST_TOLERATED = 2  # the move of the video to its place


@pytest.fixture(scope="module")
def expected(studio: Path, server: Server, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The video, rendered with room enough."""
    return straight(Case(studio, server, tmp_path_factory.mktemp("straight") / "case"))


def test_a_full_disk_at_a_write_stops_with_a_valid_folder(new_case: NewCase, expected: bytes) -> None:
    assert fill_at_writes(new_case, expected, first=2, step=23) > 6


@pytest.mark.long
def test_a_full_disk_at_any_write_stops_with_a_valid_folder(new_case: NewCase, expected: bytes) -> None:
    assert fill_at_writes(new_case, expected, first=1, step=1) > 150


def fill_at_writes(new_case: NewCase, expected: bytes, first: int, step: int) -> int:
    """Let the disk be full at the n-th write alone, resume, for growing n until there are no more; return their number.

    A render may get past a write that fails once: a rename that is refused is replaced by a copy. Then it must be whole.
    """
    tolerated = []
    for number in itertools.count(first, step):
        case = new_case(f"write{number}")
        attempt = case.generate(fault="full", at=number)
        if attempt.writes < number:  # there are no more
            assert attempt.status == 0 and case.bytes() == expected, attempt.log
            assert len(tolerated) <= MOST_TOLERATED, tolerated
            return number // step
        if attempt.status == 0:
            tolerated.append(number)
        else:
            check_stopped(case, attempt.status, attempt.told, expected)
            attempt = case.generate()
        assert attempt.status == 0, f"write {number}: {attempt.log}"
        assert case.bytes() == expected, f"write {number}"
        assert sorted(path.name for path in case.folder.iterdir()) == ["attempt.log", "talk.mp4"], f"write {number}"
    raise AssertionError


def check_stopped(case: Case, status: int, log: str, expected: bytes) -> None:
    """Check how a render that met a full disk ended, and what it left."""
    assert status == FULL, log
    assert "the disk is full" in log and "resume" in log.split("hint:")[1], log
    assert "or too small" in log or f"avatarctl resume {case.render}`" in log, log
    assert not case.output.exists() or case.bytes() == expected, "the video is whole or absent"
    if (case.render / "render.json").exists():
        verified = case.command("renders", "verify", str(case.render))
        assert verified.status == 0, verified.log


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


def test_a_disk_that_is_really_full(disk: Callable[[int], Path], new_case: NewCase, expected: bytes) -> None:
    case = new_case()
    stops = []
    for size_kib in range(16, 512, 28):
        case.render = disk(size_kib) / "work"
        attempt = case.generate("--work-dir", str(case.render))
        if attempt.status == 0:
            break
        check_stopped(case, attempt.status, attempt.told, expected)
        stops.append(len(case.events()))
    assert case.bytes() == expected
    assert len(stops) >= 5 and stops == sorted(stops), stops
