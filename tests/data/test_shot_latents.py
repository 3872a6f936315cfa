"""Tests with a clip's pictures encoded once: windows are slices of what the VAE makes of the whole, from every fourth picture."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import footage
import numpy as np
import pytest
import torch
from torch import Tensor

from avatarctl.data import shard_writer
from avatarctl.data.clips import Window, windows
from avatarctl.data.encode import encode as encode_here
from avatarctl.data.encoders import Encoders
from avatarctl.data.shot_latents import ShotLatents
from avatarctl.networks.checkpoints import load_vae
from avatarctl.networks.vae import EncodeStream, encode, normalised_mean
from avatarctl.progress import showing
from avatarctl.settings.encode import EncodeJob, EncodeSettings

Encode = Callable[..., footage.Ended]


def starts(count: int, length: int, stride: int, **options: object) -> list[tuple[int, int]]:
    rows = ((np.full((1, 1, 3), place, np.uint8), None, None) for place in range(count))
    found = list(windows(rows, length, stride, count, "pad", step=4, **options))  # type: ignore[arg-type]
    for window in found:
        shown = [int(row[0][0, 0, 0]) for row in window.rows]  # type: ignore[index]
        assert shown[: window.frames] == list(range(window.start, window.start + window.frames))
        assert len(shown) == length
    return [(window.start, window.shot) for window in found]


def test_windows_begin_at_every_fourth_picture_of_their_shot() -> None:
    assert starts(125, 81, 81) == [(0, 0)]
    assert starts(125, 81, 81, to_end=True) == [(0, 0), (44, 0)]
    assert starts(168, 81, 81, to_end=True) == [(0, 0), (80, 0), (84, 0)]  # three pictures are left over
    assert starts(164, 81, 81, to_end=True) == [(0, 0), (80, 0)]
    assert starts(20, 9, 3, to_end=True) == [(0, 0), (4, 0), (8, 0)]
    assert starts(22, 9, 9, to_end=True, first=7) == [(4, 0), (12, 0)]
    assert starts(12, 9, 9, to_end=True, first=7) == [(0, 0)]
    assert starts(40, 9, 9, to_end=True, shots=((0, 19), (22, 40))) == [(0, 0), (8, 0), (22, 1), (30, 1)]


@pytest.fixture(scope="module")
def vae(weights: Path) -> object:
    """A tiny VAE."""
    return load_vae(weights / "vae.safetensors")


def pictures(count: int) -> Tensor:
    return torch.rand(1, 3, count, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


@torch.no_grad()
def test_slices_are_those_of_the_whole_and_each_picture_is_encoded_once(vae: object) -> None:
    pixels, pushed = pictures(33), []

    def begin() -> Callable[[Tensor], Tensor]:
        stream = EncodeStream(vae)  # type: ignore[arg-type]

        def push(chunk: Tensor) -> Tensor:
            pushed.append(chunk.shape[2])
            return normalised_mean(vae, stream.push(chunk))  # type: ignore[arg-type]

        return push

    whole = encode(vae, pixels)  # type: ignore[arg-type]
    latents = ShotLatents(begin)
    for start in (0, 4, 12, 20, 24):
        cut = latents.of(Window(start, 9, (), 0), pixels[:, :, start : start + 9])
        assert torch.equal(cut, whole[:, :, start // 4 : start // 4 + 3])
    assert sum(pushed) == 33
    # What is another shot, or doesn't touch, begins as a picture of its own.
    for start, shot in ((0, 1), (20, 1)):
        cut = latents.of(Window(start, 9, (), shot), pixels[:, :, start : start + 9])
        assert torch.equal(cut, encode(vae, pixels[:, :, start : start + 9]))  # type: ignore[arg-type]


def test_a_clip_is_encoded_whole_by_command_line(tmp_path: Path, encode: Encode, weights: Path) -> None:
    footage.clip_folder(tmp_path / "source" / "00001", frames=22)
    for name, more in {"windows": (), "clip": ("--latents-of", "clip")}.items():
        encode(tmp_path / "source", tmp_path / name, "--starts", "even", "--stride", "4", *more)
    alone, cut = footage.by_source(tmp_path / "windows"), footage.by_source(tmp_path / "clip")
    assert sorted(start for _, start in cut) == [0, 4, 8, 12] and {*alone} - {*cut} == {("00001", 13)}
    first, *later = sorted(cut)
    assert torch.equal(cut[first]["latents"], alone[first]["latents"])
    for place in later:
        assert not torch.equal(cut[place]["latents"], alone[place]["latents"])
        for name in ("condition", "image_tokens", "speech", "face_mask", "text"):
            assert torch.equal(cut[place][name], alone[place][name]), name
    for before, after in pairwise(sorted(cut)):  # neighbours share what they both show
        assert torch.equal(cut[before]["latents"][:, 1:], cut[after]["latents"][:, :-1])
    ended = encode(tmp_path / "source", tmp_path / "clip", status=7)
    assert "latents_of" in ended.log


def test_a_clip_resumed_in_its_middle_is_the_straight_one(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_writer, "LIST_S", 0.0)
    footage.clip_folder(tmp_path / "source" / "00001", frames=30)
    settings = EncodeSettings(window=3, stride=4, sizes=((96, 64),), latents_of="clip")
    plain, seen = Encoders.pictures, []

    def job(name: str) -> EncodeJob:
        return EncodeJob(
            source=tmp_path / "source", cache=tmp_path / name, settings=settings, weights=weights, device="cpu"
        )

    def broken(self: Encoders, *given: object) -> object:
        seen.append(1)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return plain(self, *given)  # type: ignore[arg-type]

    with showing("none") as show:
        encode_here(job("straight"), show)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Encoders, "pictures", broken)
            encode_here(job("resumed"), show)
        encode_here(job("resumed"), show)
    files = [load_all(tmp_path / name) for name in ("straight", "resumed")]
    assert files[0].keys() == files[1].keys() and len(files[0]) == 6
    assert all(torch.equal(files[0][key], files[1][key]) for key in files[0])


def load_all(cache: Path) -> dict[str, Tensor]:
    return {key: sample["latents"] for key, sample in footage.contents(cache).items()}


def test_draws_are_of_windows() -> None:
    with pytest.raises(ValueError, match="latents_of: got clip with latents: sample"):
        EncodeSettings(latents="sample", latents_of="clip")
