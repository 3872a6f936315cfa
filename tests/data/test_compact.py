"""Tests with what a cache stores of a sample: nothing that is the same in all, and everything that comes back of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import footage
import numpy as np
import pytest
import torch
from safetensors.torch import save

from avatarctl.data import shard_writer
from avatarctl.data.ahead import ahead, batched
from avatarctl.data.clips import windows
from avatarctl.data.compact import pack, read_grey, unpack
from avatarctl.data.encoders import Encoders
from avatarctl.data.shard_writer import ShardWriter
from avatarctl.data.shards import Begun, Index, Sample, read_tensors
from avatarctl.errors import InputFileError
from avatarctl.networks.conditions import reference_condition

Encode = Callable[..., footage.Ended]


# -- Packing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "error"), [(torch.bfloat16, 1 / 256), (torch.float16, 1 / 2048), (torch.float32, 0)])
def test_the_condition_comes_back_as_exact_as_its_number_format(dtype: torch.dtype, error: float) -> None:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(16, 5, 8, 8, generator=generator)
    grey = torch.randn(16, 5, 8, 8, generator=generator).to(dtype)
    reference = grey.float() + 4 * torch.randn(16, 5, 8, 8, generator=generator) * 0.1 ** torch.arange(5)[:, None, None]
    mask = torch.rand(5, 8, 8, generator=generator).round()
    stored = pack({"latents": latents, "face_mask": mask}, reference, grey, dtype)
    assert "condition" not in stored and "lip_mask.packed" not in stored
    back = unpack(stored, lambda: grey)
    assert (back["condition"][4:] - reference).abs().max() <= error + 1e-6
    assert torch.equal(back["condition"][:4, 0], torch.ones(4, 8, 8)) and not back["condition"][:4, 1:].any()
    assert torch.equal(back["face_mask"].float(), mask) and (back["lip_mask"] == 1).all()
    torch.testing.assert_close(back["latents"], latents.to(dtype))


def test_a_sample_of_512_pixels_takes_at_most_six_tenths_of_before() -> None:
    """A reference whose grey frames fade into those of grey alone as the embedded avatar's VAE has them (measured)."""
    generator = torch.Generator().manual_seed(0)
    shape, dtype = (16, 21, 64, 64), torch.bfloat16
    fades = torch.tensor([1.2, 1.0, 0.6, 0.5, 0.1, 0.06, 0.015, 6e-3, 4e-3, 1e-3, 3e-4, *[1e-4] * 10])
    grey = torch.randn(shape, generator=generator).to(dtype)
    reference = grey.float() + torch.randn(shape, generator=generator) * fades[:, None, None]
    mask = torch.zeros(21, 64, 64)
    mask[:, 20:40, 20:40] = 1
    tensors = {
        "latents": torch.randn(shape, generator=generator),
        "image_tokens": torch.randn(257, 1280, generator=generator),
        "text": torch.randn(8, 4096, generator=generator),
        "speech": torch.randn(168, 768, generator=generator),
    }
    masks = {"face_mask": mask, "lip_mask": mask}
    condition = torch.cat([torch.zeros(4, *shape[1:]), reference])
    before = {name: tensor.to(dtype) for name, tensor in {**tensors, "condition": condition}.items()}
    before |= {name: tensor.half() for name, tensor in masks.items()}
    assert len(save(pack({**tensors, **masks}, reference, grey, dtype))) <= 0.6 * len(save(before))


def test_an_encoded_condition_is_that_of_generation(tmp_path: Path, weights: Path, encode: Encode) -> None:
    footage.clip_folder(tmp_path / "source" / "00001")
    encode(tmp_path / "source", tmp_path / "cache", "--store-dtype", "float16")
    [entry] = Index(tmp_path / "cache").samples()
    assert set(read_tensors(tmp_path / "cache", entry)) >= {"latents", "reference.packed", "speech", "text"}
    [sample] = footage.contents(tmp_path / "cache").values()
    encoders = Encoders({"vae": weights / "vae.safetensors"}, "cpu", 16)
    shape = tuple(sample["latents"].shape)
    grey = read_grey(tmp_path / "cache", shape)
    expected = reference_condition(encoders._vae, torch.zeros(3, 8 * shape[2], 8 * shape[3]), shape[1])[0, 4:]
    torch.testing.assert_close(grey.float(), expected, rtol=1e-3, atol=1e-3)


def test_missing_grey_pictures_are_told(tmp_path: Path, encode: Encode) -> None:
    footage.clip_folder(tmp_path / "source" / "00001")
    encode(tmp_path / "source", tmp_path / "cache")
    for path in (tmp_path / "cache" / "grey").glob("*.safetensors"):
        path.unlink()
    with pytest.raises(InputFileError, match="every sample of its size needs it"):
        footage.contents(tmp_path / "cache")


# -- Where windows begin ----------------------------------------------------------------------------------------------


def starts(count: int, length: int, stride: int, **options: object) -> list[int]:
    rows = ((np.full((1, 1, 3), place, np.uint8), None, None) for place in range(count))
    found = list(windows(rows, length, stride, count, "pad", **options))  # type: ignore[arg-type]
    assert all(int(w.rows[0][0][0, 0, 0]) == w.start for w in found)  # type: ignore[index]
    assert all(len(w.rows) == length for w in found)
    return [window.start for window in found]


def test_windows_end_with_the_clip() -> None:
    assert starts(125, 81, 81) == [0]
    assert starts(125, 81, 81, to_end=True) == [0, 44]
    assert starts(162, 81, 81, to_end=True) == [0, 81]
    assert starts(20, 9, 4, to_end=True) == [0, 4, 8, 11]
    assert starts(30, 9, 12, to_end=True) == [0, 12, 21]
    assert starts(20, 9, 9, to_end=True, first=3) == [3, 11]
    assert starts(10, 9, 9, to_end=True, first=5) == [1]
    assert starts(5, 9, 9, to_end=True, first=3) == [0]


@pytest.mark.parametrize(("how", "found"), [("fixed", {0, 9}), ("even", {0, 9, 11})])
def test_the_tail_of_a_clip_is_encoded(tmp_path: Path, encode: Encode, how: str, found: set[int]) -> None:
    footage.clip_folder(tmp_path / "source" / "00001", frames=20)
    encode(tmp_path / "source", tmp_path / "cache", "--starts", how)
    assert {place for _, place in footage.by_source(tmp_path / "cache")} == found


def test_random_starts_are_the_same_every_time(tmp_path: Path, encode: Encode) -> None:
    for number in range(4):
        footage.clip_folder(tmp_path / "source" / f"{number}", frames=20, seed=number)
    encode(tmp_path / "source", tmp_path / "one", "--starts", "random")
    encode(tmp_path / "source", tmp_path / "other", "--starts", "random")
    places = set(footage.by_source(tmp_path / "one"))
    assert places == set(footage.by_source(tmp_path / "other"))
    firsts = {min(place for name, place in places if name == each) for each, _ in places}
    assert len(firsts) > 1
    assert {max(place for name, place in places if name == each) for each, _ in places} == {11}


# -- Pictures ---------------------------------------------------------------------------------------------------------


def test_pictures_are_samples_beside_clips(tmp_path: Path, encode: Encode) -> None:
    from PIL import Image

    footage.clip_folder(tmp_path / "source" / "00001")
    (tmp_path / "source" / "pictures").mkdir()
    Image.radial_gradient("L").convert("RGB").resize((90, 60)).save(tmp_path / "source" / "pictures" / "me.png")
    (tmp_path / "source" / "pictures" / "me.txt").write_text("A person is talking")
    without = encode(tmp_path / "source", tmp_path / "without").data
    assert without["samples"] == 1 and "pictures/me.png" in without["passed_over"]
    encode(tmp_path / "source", tmp_path / "cache", "--pictures")
    sample = footage.by_source(tmp_path / "cache")["pictures/me.png", 0]
    assert sample["latents"].shape[1:] == (1, 8, 12) and "speech" not in sample
    assert sample["prompt"] == "A person is talking"
    # Nothing of it is known beforehand.
    assert not sample["condition"][:4].any()
    assert torch.equal(sample["condition"][4:], read_grey(tmp_path / "cache", tuple(sample["latents"].shape)).float())


# -- Windows are listed as they come ----------------------------------------------------------------------------------


def one(key: str, value: float) -> Sample:
    return Sample(key, {"latents": torch.full((1, 1), value)}, {"frames": 1})


def test_a_kill_in_a_long_clip_keeps_what_was_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_writer, "LIST_S", 0.0)

    def broken() -> Iterator[Sample]:
        yield one("clip-0", 0)
        yield one("clip-1", 1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), ShardWriter(tmp_path) as writer:
        writer.add("clip", "made", broken())
    index = Index(tmp_path)
    assert not index.samples() and isinstance(index.begun["clip"], Begun)
    assert [entry.key for entry in index.begun["clip"].samples] == ["clip-0", "clip-1"]
    with ShardWriter(tmp_path) as writer:
        writer.add("clip", "made", [one("clip-2", 2)], before=index.begun["clip"].samples)
    index = Index(tmp_path)
    assert not index.begun
    assert [float(read_tensors(tmp_path, entry)["latents"]) for entry in index.samples()] == [0, 1, 2]


def test_windows_that_are_there_are_not_encoded_again(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from avatarctl.data.encode import encode
    from avatarctl.progress import showing
    from avatarctl.settings.encode import EncodeJob, EncodeSettings

    monkeypatch.setattr(shard_writer, "LIST_S", 0.0)
    footage.clip_folder(tmp_path / "source" / "00001", frames=30)
    settings = EncodeSettings(window=3, sizes=((96, 64),))
    job = EncodeJob(
        source=tmp_path / "source", cache=tmp_path / "cache", settings=settings, weights=weights, device="cpu"
    )
    windows_of = Encoders.pictures
    seen: list[int] = []

    def counted(self: Encoders, several: list[np.ndarray], *more: Any) -> object:
        seen.append(len(several))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return windows_of(self, several, *more)

    monkeypatch.setattr(Encoders, "pictures", counted)
    with pytest.raises(KeyboardInterrupt), showing("none") as show:
        encode(job, show)
    with showing("none") as show:
        done = encode(job, show)
    assert done.samples == 4 and len(seen) == 3 + 2  # the one that was interrupted, and the last


# -- Decoding ahead ---------------------------------------------------------------------------------------------------


def test_items_come_in_order_ahead_of_their_use() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(6):
            made.append(number)
            yield number

    waiting = ahead(items(), 2)
    assert next(waiting) == 0
    deadline = time.monotonic() + 5
    while len(made) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert made == [0, 1, 2]  # two wait
    assert list(waiting) == [1, 2, 3, 4, 5]
    assert list(batched(iter(range(5)), 2)) == [[0, 1], [2, 3], [4]]


def test_errors_and_ends_reach_both_sides() -> None:
    ended: list[bool] = []

    def items() -> Iterator[int]:
        try:
            yield 1
            raise InputFileError("broken")
        finally:
            ended.append(True)

    with pytest.raises(InputFileError, match="broken"):
        list(ahead(items(), 2))

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            ended.append(True)

    stopped = ahead(endless(), 2)
    next(stopped)
    stopped.close()
    assert ended == [True, True]
