"""Tests with checkpoints on the disk: one file for all windows in flight, two of them kept, the newest whole one counts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from avatarctl.render import frontier
from avatarctl.render.folder import MANIFEST_VERSION, RenderFolder
from avatarctl.render.frontier import Frontier
from avatarctl.sampling.denoise import InFlight
from avatarctl.tensorfile import facts_of


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RenderFolder]:
    render = RenderFolder(tmp_path / "talk.mp4.render")
    with render.held():
        render.write_manifest({"version": MANIFEST_VERSION, "job": {}})
        yield render


def in_flight(first: int, count: int, residual: bool = False) -> Frontier:
    """Return windows with tensors that are all different."""
    windows = {}
    for index in range(first, first + count):
        latents = torch.randn(1, 2, 3, 2, 2, generator=torch.Generator().manual_seed(index))
        windows[index] = InFlight(1 + index - first, latents, *((-latents, 2 * latents) if residual else ()))
    return Frontier(windows, first)


def equal(one: Frontier, other: Frontier) -> bool:
    def same(left: InFlight, right: InFlight) -> bool:
        ours, theirs = left.tensors(), right.tensors()
        alike = ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
        return left.done == right.done and alike

    return (
        one.first == other.first
        and one.windows.keys() == other.windows.keys()
        and all(same(one.windows[index], other.windows[index]) for index in one.windows)
    )


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_what_was_saved_is_what_is_there(folder: RenderFolder, count: int, residual: bool) -> None:
    saved = in_flight(5, count, residual)
    frontier.save(folder, saved)
    reader = RenderFolder(folder.path)
    reader.look()
    found = frontier.load(reader)
    assert found is not None and equal(found, saved)
    assert facts_of(folder.path / folder.listed("frontier")[0]) is not None


def test_two_generations_are_kept_and_the_newest_whole_one_counts(folder: RenderFolder) -> None:
    states = [in_flight(first, 4) for first in range(5)]
    for state in states:
        frontier.save(folder, state)
    names = folder.listed("frontier")
    assert names == [f"frontier/generation-{number:08d}.safetensors" for number in (3, 4)]
    assert sorted(path.name for path in (folder.path / "frontier").iterdir()) == [name.split("/")[1] for name in names]
    newest = folder.path / names[1]
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    found = frontier.load(folder)
    assert found is not None and equal(found, states[3])
    frontier.save(folder, states[4])
    found = frontier.load(folder)
    assert found is not None and equal(found, states[4])


def test_flushes_of_a_checkpoint_do_not_depend_on_the_windows(
    folder: RenderFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for first in range(3):
        frontier.save(folder, in_flight(first, 2))
    flushes, flush = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (flushes.append(handle), flush(handle)))
    counts = []
    for count in (1, 60):
        flushes[:] = []
        frontier.save(folder, in_flight(9, count))
        counts.append(len(flushes))
    assert counts == [3, 3]  # the file, its folder, the index


def test_tensors_of_any_layout_and_format_are_written_as_safetensors_has_them(folder: RenderFolder) -> None:
    turned = torch.arange(24.0).reshape(1, 2, 3, 2, 2).transpose(1, 2)
    frontier.save(folder, Frontier({3: InFlight(1, turned, turned.bfloat16())}, 3))
    found = frontier.load(folder)
    assert found is not None and torch.equal(found.windows[3].latents, turned)
    residual = found.windows[3].guidance_residual
    assert residual is not None and residual.dtype == torch.bfloat16 and torch.equal(residual, turned.bfloat16())
