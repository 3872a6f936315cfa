"""Tests with caches, whole and damaged: what `data check` tells of them, mends, and draws."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import footage
import numpy as np
import pytest
from PIL import ImageDraw

from avatarctl.data import check as checks
from avatarctl.data.shards import SHARDS, Index, read_null_text

Encode = Callable[..., footage.Ended]
NewCommand = Callable[..., footage.Command]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Clips of two kinds and sizes, one too short, one that can't be read."""
    source = tmp_path / "in"
    footage.clip_folder(source / "speech" / "00001", frames=18)
    footage.clip_folder(source / "singing" / "00002", frames=5, seed=1)
    footage.video(source / "square.mkv", 9, size="64x64", fps="20", seed=2)
    (source / "bad.mp4").write_text("nothing")
    return source


@pytest.fixture
def cache(source: Path, tmp_path: Path, encode: Encode) -> Path:
    """Their samples."""
    encode(source, tmp_path / "cache")
    return tmp_path / "cache"


def test_counts_lengths_and_sizes(cache: Path, command: NewCommand) -> None:
    data = command("data", "check", cache, "--json").end().data
    assert data["total"]["samples"] == 4
    assert data["total"]["seconds"] == pytest.approx(9 / 25 + 9 / 25 + 5 / 25 + 9 / 20)
    assert {name: group["samples"] for name, group in data["buckets"].items()} == {
        "96x64, 25 fps": 3,
        "64x64, 20 fps": 1,
    }
    assert {name: group["samples"] for name, group in data["kinds"].items()} == {
        "speech": 2,
        "singing": 1,
        "unknown": 1,
    }
    assert data["clips"] == {"encoded": 3, "failed": 1}
    assert (data["padded"], data["without_masks"], data["damaged"], data["twice"]) == (1, 1, [], 0)
    assert data["total"]["bytes"] < data["disk_bytes"]
    ended = command("data", "check", cache).end()
    assert ended.status == 0 and "96x64, 25 fps" in ended.out and "failed: bad.mp4: " in ended.out


def test_a_clip_under_two_names_is_told(source: Path, cache: Path, encode: Encode, command: NewCommand) -> None:
    encode(source / "speech", cache)
    assert command("data", "check", cache, "--json").end().data["twice"] == 1


def test_damage_is_found_and_mended(
    source: Path, cache: Path, tmp_path: Path, encode: Encode, command: NewCommand
) -> None:
    before = footage.contents(cache)
    entry = Index(cache).samples()[-1]
    path = cache / SHARDS / entry.shard
    data = bytearray(path.read_bytes())
    data[entry.offset + entry.size // 2] ^= 8
    path.write_bytes(data)

    ended = command("data", "check", cache).end()
    assert ended.status == 4 and entry.key in ended.log and "--repair" in ended.log
    assert command("data", "check", cache, "--contact-sheet", tmp_path / "sheet.jpg").end().status == 4
    ended = command("data", "check", cache, "--repair", "--json").end()
    assert ended.status == 0 and len(ended.data["dropped"]) == 2  # and the one that failed
    assert len(footage.contents(cache)) < len(before)
    assert encode(source, cache).data["encoded"] == 1
    assert command("data", "check", cache).end().status == 0
    assert footage.contents(cache).keys() == before.keys()


def test_a_lost_shard_is_damage(source: Path, cache: Path, encode: Encode, command: NewCommand) -> None:
    for path in (cache / SHARDS).glob("*.tar"):
        path.unlink()
    assert command("data", "check", cache).end().status == 4
    assert command("data", "check", cache, "--repair").end().status == 0
    assert encode(source, cache).data["encoded"] == 3
    assert command("data", "check", cache).end().status == 0 and len(footage.contents(cache)) == 4


def test_a_damaged_null_text_is_found_and_made_again(
    source: Path, cache: Path, encode: Encode, command: NewCommand
) -> None:
    before = (cache / "null.safetensors").read_bytes()
    (cache / "null.safetensors").write_bytes(before[:-4] + b"oops")
    ended = command("data", "check", cache).end()
    assert ended.status == 4 and "null.safetensors" in ended.log
    assert encode(source, cache).data["encoded"] == 0
    assert (cache / "null.safetensors").read_bytes() == before
    assert set(read_null_text(cache)) == {"empty", "negative"}


def test_a_damaged_index_is_told(cache: Path, command: NewCommand) -> None:
    [path] = (cache / "index").glob("*.jsonl")
    path.write_bytes(path.read_bytes().replace(b'"key"', b'"kei"', 1))
    ended = command("data", "check", cache).end()
    assert ended.status == 4 and "a line of the index is damaged" in ended.log and "Traceback" not in ended.log


def test_what_is_no_cache(tmp_path: Path, command: NewCommand) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        ended = command("data", "check", path).end()
        assert ended.status == 4 and "expected a cache" in ended.log


def test_the_contact_sheet_shows_every_sample_and_its_masks(cache: Path, tmp_path: Path, command: NewCommand) -> None:
    ended = command("data", "check", cache, "--contact-sheet", tmp_path / "sheet.jpg").end()
    assert ended.status == 0 and "4 of 4 samples" in ended.log
    with footage.Image.open(tmp_path / "sheet.jpg") as sheet:
        assert sheet.size == (2 * 160, 2 * 174 + 14), "the last line says what the colours are"
        pixels = np.asarray(sheet.convert("RGB"), dtype=int)
    # 00002 comes first: dark pictures, lips everywhere (red), the face on their left (green).
    left, right = pixels[10:50, 40:70].mean((0, 1)), pixels[10:50, 90:120].mean((0, 1))
    assert right[0] > right[1] + 20 and left[0] > 20
    assert left[1] > right[1] + 20
    assert command("data", "check", cache, "--contact-sheet", tmp_path / "sheet.png").end().status == 2


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("speech/00000", "speech/00000 0.0s"),
        ("square/speech/00000", "square/speech/00000 0.0s"),
        ("videos of last summer/square/00000", ".../square/00000 0.0s"),
        ("a-very-long-name-of-a-clip-0001", "a-very-long-na...of-a-clip-0001 0.0s"),
    ],
)
def test_labels_fit_and_keep_the_beginnings_of_words(name: str, shown: str) -> None:
    pen = ImageDraw.Draw(footage.Image.new("RGB", (160, 14)))
    told = checks.label(name, " 0.0s", pen)
    assert pen.textlength(told) <= 156
    assert told == shown
