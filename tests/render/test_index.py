"""Tests with the index of a render folder: appended line by line, torn, damaged, cut, of an older and of a newer version."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from avatarctl import durable
from avatarctl.errors import DeviceError
from avatarctl.render.folder import MANIFEST_VERSION, RenderFolder
from avatarctl.render.index import Entry, Index, read_index

NAMES = [f"windows/{number:06d}.safetensors" for number in range(6)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A render with six files, written and listed one after the other."""
    path = tmp_path / "talk.mp4.render"
    render = RenderFolder(path)
    with render.held():
        render.write_manifest({"version": MANIFEST_VERSION, "job": {}})
        for number, name in enumerate(NAMES):
            render.write(name, bytes([number]) * 10)
    return path


def index_of(folder: Path) -> Path:
    return folder / "index.jsonl"


def opened(folder: Path) -> RenderFolder:
    """Return a render after it was opened and left, as a resume begins."""
    render = RenderFolder(folder)
    with render.held():
        return render


def test_a_file_costs_a_line_and_three_flushes_whatever_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushes, flush = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (flushes.append(handle), flush(handle)))
    costs = []
    for count in (10, 5000):
        render = RenderFolder(tmp_path / str(count))
        with render.held():
            render.write_manifest({"version": MANIFEST_VERSION, "job": {}})
            Index(render.path).change({f"segments/{number:06d}.mp4": Entry("0" * 64, 7) for number in range(count)})
            render.look()
            assert len(render.listed("segments")) == count
            before, flushes[:] = index_of(render.path).stat().st_size, []
            render.write(NAMES[0], b"1")
            costs.append((index_of(render.path).stat().st_size - before, len(flushes)))
            flushes[:] = []
            render.forget(NAMES[0])
            assert len(flushes) == 1
    assert costs[0] == costs[1] and costs[0][0] < 250
    # The file, its folder where the name is new, the line. The folder of the first file is made, too.
    assert costs[0][1] <= 4


def test_what_is_listed_is_what_was_written_and_not_forgotten(folder: Path) -> None:
    render = RenderFolder(folder)
    with render.held():
        render.forget(NAMES[1])
        render.write(NAMES[2], b"written again")
    listing = read_index(folder)
    assert list(listing.files) == [NAMES[0], NAMES[2], *NAMES[3:]] and listing.why == "" and not listing.settled
    assert listing.files[NAMES[2]].bytes == len(b"written again")
    assert opened(folder).verify() == ([NAMES[0], NAMES[2], *NAMES[3:]], [])
    # Opened, it has one line for each file and one that counts them.
    assert read_index(folder).settled and len(index_of(folder).read_text().splitlines()) == 6


def test_a_torn_last_line_is_what_a_kill_leaves(folder: Path) -> None:
    data = index_of(folder).read_bytes()
    for left in range(1, 40):
        index_of(folder).write_bytes(data[:-left])
        listing = read_index(folder)
        assert list(listing.files) == NAMES[:-1] and listing.why == ""
    render = opened(folder)
    assert render.listed("windows") == NAMES[:-1] and not (folder / NAMES[-1]).exists()
    assert not (folder / "events.jsonl").exists()


@pytest.mark.parametrize("place", range(1, 6))
def test_a_damaged_line_costs_the_file_that_it_lists_alone(folder: Path, place: int) -> None:
    opened(folder)
    lines = index_of(folder).read_bytes().splitlines(keepends=True)
    harmed = bytearray(lines[place])
    harmed[30] ^= 1
    index_of(folder).write_bytes(b"".join([*lines[:place], bytes(harmed), *lines[place + 1 :]]))
    render = RenderFolder(folder)
    assert render.verify() == ([name for name in NAMES if name != NAMES[place - 1]], ["index.jsonl"])
    with render.held():
        assert render.listed("windows") == [name for name in NAMES if name != NAMES[place - 1]]
        assert all(render.valid(name) for name in render.listed("windows"))
    assert '"recompute", "file": "index.jsonl", "why": "damaged"' in (folder / "events.jsonl").read_text()
    assert RenderFolder(folder).verify()[1] == []


@pytest.mark.parametrize("lines", range(6))
def test_an_index_that_was_cut_is_told_from_one_that_was_killed(folder: Path, lines: int) -> None:
    opened(folder)
    whole = index_of(folder).read_bytes().splitlines(keepends=True)
    index_of(folder).write_bytes(b"".join(whole[:lines]))
    assert RenderFolder(folder).verify() == (NAMES[: max(lines - 1, 0)], ["index.jsonl"])


def test_a_lost_index_is_told_and_nothing_of_the_folder_is_used(folder: Path) -> None:
    index_of(folder).unlink()
    assert RenderFolder(folder).verify() == ([], ["index.jsonl"])
    assert opened(folder).listed("windows") == []
    assert '"missing"' in (folder / "events.jsonl").read_text()


def test_an_index_that_is_deleted_while_a_render_runs_is_written_again(folder: Path) -> None:
    render = RenderFolder(folder)
    with render.held():
        index_of(folder).unlink()
        render.write("audio.f32", b"1234")
    assert RenderFolder(folder).verify() == (["audio.f32", *NAMES], [])


def test_after_a_full_disk_the_index_is_as_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    render = opened(folder)
    before, flush = index_of(folder).read_bytes(), os.fsync

    def full(handle: int) -> None:
        if Path(f"/proc/self/fd/{handle}").readlink() == index_of(folder):
            raise OSError(28, "No space left on device")
        flush(handle)

    with render.held(), monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(DeviceError, match="the disk is full"):
            render.write("segments/000000.mp4", b"1")
    assert index_of(folder).read_bytes() == before
    assert RenderFolder(folder).verify() == (NAMES, [])


def test_a_folder_of_a_newer_version_is_refused_and_left_as_it_is(folder: Path) -> None:
    render = RenderFolder(folder)
    manifest = {**render.manifest(), "version": MANIFEST_VERSION + 1, "avatarctl": "9.9"}
    (folder / "render.json").write_bytes(durable.sealed(manifest))
    (folder / NAMES[0]).with_name("000007.safetensors").write_bytes(b"a new kind of file")
    with index_of(folder).open("ab") as file:
        file.write(durable.sealed_line({"a new": "kind of line"}))
    before = {path: path.read_bytes() for path in folder.rglob("*.*") if path.is_file() and path.name != "holder.json"}
    opened(folder)
    assert all(path.read_bytes() == data for path, data in before.items())
