"""Tests with clips, caches and settings that can't be used: each is named with its reason and the rest is encoded."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import footage
import pytest

from avatarctl.data.clips import numbered
from avatarctl.data.shards import Index
from avatarctl.errors import InputFileError

Encode = Callable[..., footage.Ended]
Start = Callable[..., footage.Command]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """One good clip."""
    footage.video(tmp_path / "in" / "good.mkv")
    return tmp_path / "in"


def cut_off(source: Path) -> None:
    whole = footage.video(source / "bad.mkv", 60).read_bytes()
    (source / "bad.mkv").write_bytes(whole[: len(whole) * 2 // 3])


def damaged_inside(source: Path) -> None:
    data = bytearray(footage.video(source / "bad.mkv", 60, size="640x480").read_bytes())
    for place in range(len(data) // 3, len(data) // 2):
        data[place] = 0
    (source / "bad.mkv").write_bytes(data)


def no_video(source: Path) -> None:
    (source / "bad.mp4").write_text("this is no video")


def empty(source: Path) -> None:
    (source / "bad.mp4").touch()


def dangling(source: Path) -> None:
    (source / "bad.mp4").symlink_to(source / "nowhere.mp4")


def sound_alone(source: Path) -> None:
    footage.recording(source / "bad.wav", 1.0).rename(source / "bad.mp4")


def fewer_masks(source: Path) -> None:
    footage.clip_folder(source / "bad")
    (source / "bad" / "lip_masks" / "frame_8.png").unlink()


def fewer_masks_than_a_video(source: Path) -> None:
    footage.video(source / "bad.mkv", 20)
    footage.pictures(source / "masks" / "bad.face", 15)


def more_masks_than_a_video(source: Path) -> None:
    footage.video(source / "bad.mkv", 12)
    footage.pictures(source / "masks" / "bad.face", 15)


def a_missing_picture(source: Path) -> None:
    footage.clip_folder(source / "bad", masks=False)
    (source / "bad" / "images" / "frame_4.png").unlink()


def a_damaged_picture(source: Path) -> None:
    footage.clip_folder(source / "bad", masks=False)
    (source / "bad" / "images" / "frame_7.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")


def a_picture_of_another_size(source: Path) -> None:
    footage.clip_folder(source / "bad", masks=False)
    footage.Image.new("L", (32, 32)).save(source / "bad" / "images" / "frame_7.png")


def no_pictures(source: Path) -> None:
    footage.clip_folder(source / "bad", masks=False)
    for path in (source / "bad" / "images").iterdir():
        path.unlink()


def no_rate(source: Path) -> None:
    footage.clip_folder(source / "bad", masks=False)
    (source / "bad" / "sub_clip.mp4").unlink()


def a_damaged_recording(source: Path) -> None:
    footage.clip_folder(source / "bad", masks=False)
    path = source / "bad" / "audio.wav"
    path.write_bytes(path.read_bytes()[:4000])


def a_caption_that_is_no_text(source: Path) -> None:
    footage.video(source / "bad.mkv", seed=1)
    (source / "bad.txt").write_bytes(b"\xff\xfe\xfa")


def an_empty_caption(source: Path) -> None:
    footage.video(source / "bad.mkv", seed=1)
    (source / "bad.txt").touch()


FAULTS = {
    an_empty_caption: "bad.txt: got an empty caption",
    cut_off: "bad.mkv: got a damaged or cut off",
    damaged_inside: "bad.mkv: got a damaged or cut off",
    no_video: "bad.mp4: got a file that isn't a readable video",
    empty: "bad.mp4: got an empty file",
    dangling: "bad.mp4: got no such file",
    sound_alone: "bad.mp4: got a file that isn't a readable video (it has no pictures)",
    fewer_masks: "lip_masks: got 8 masks, expected 9",
    fewer_masks_than_a_video: "masks: got 15, expected one for each picture",
    more_masks_than_a_video: "masks: got more than 12",
    a_missing_picture: "images: got 8 pictures from 0 to 8, but number 4 is missing",
    a_damaged_picture: "frame_7.png: got a",
    a_picture_of_another_size: "frame_7.png: got 32x32, expected 96x64",
    no_pictures: "images: got no picture",
    no_rate: "images: got pictures of unknown rate",
    a_damaged_recording: "audio.wav: got a damaged or cut off file",
    a_caption_that_is_no_text: "bad.txt: got a caption that can't be read",
}


def test_what_cannot_be_used_is_listed_with_its_reason(tmp_path: Path, encode: Encode) -> None:
    """All faults at once, each in a folder of its own; the good clips beside them are encoded."""
    source = tmp_path / "in"
    for number, fault in enumerate(FAULTS):
        folder = source / fault.__name__
        folder.mkdir(parents=True)
        footage.video(folder / "good.mkv", seed=100 + number)
        fault(folder)
    data = encode(source, tmp_path / "cache").data
    reasons = {Path(name).parts[0]: reason for name, reason in data["failed"]}
    assert {fault.__name__ for fault in FAULTS} == set(reasons)
    for fault, expected in FAULTS.items():
        assert expected in reasons[fault.__name__], fault.__name__
    assert data["encoded"] == data["samples"] == len(FAULTS) == len(footage.contents(tmp_path / "cache"))
    # Known from now on, and told again; looked at again once a file is another.
    again = encode(source, tmp_path / "cache").data
    assert again["failed"] == data["failed"] and again["encoded"] == 0
    footage.video(source / "no_video" / "bad.mp4", seed=7)
    mended = encode(source, tmp_path / "cache").data
    assert mended["encoded"] == 1 and len(mended["failed"]) == len(FAULTS) - 1


def test_what_was_encoded_outlives_its_source(source: Path, tmp_path: Path, encode: Encode) -> None:
    footage.video(source / "talk.mkv", seed=1)
    (source / "list.txt").write_text("good.mkv\ntalk.mkv\n")
    encode(source / "list.txt", tmp_path / "cache")
    (source / "talk.mkv").rename(tmp_path / "away.mkv")
    data = encode(source / "list.txt", tmp_path / "cache").data
    assert "no such file" in data["failed"][0][1] and data["samples"] == 2
    (tmp_path / "away.mkv").rename(source / "talk.mkv")
    again = encode(source / "list.txt", tmp_path / "cache").data
    assert (again["known"], again["failed"], again["samples"]) == (2, [], 2)


def test_strict_fails(source: Path, tmp_path: Path, start: Start) -> None:
    no_video(source)
    ended = start(source, tmp_path / "cache", "--strict").end()
    assert ended.status == 3 and "1 of 2 clips" in ended.log and "bad.mp4" in ended.log
    assert len(footage.contents(tmp_path / "cache")) == 1
    (source / "bad.mp4").unlink()
    assert start(source, tmp_path / "cache", "--strict").end().status == 0


def test_clips_without_sound_are_left_out(source: Path, tmp_path: Path, encode: Encode) -> None:
    footage.video(source / "silent.mp4", sound=False)
    footage.pictures(source / "00001" / "images")
    data = encode(source, tmp_path / "cache").data
    assert data["skipped"] == [["00001", "no sound"], ["silent.mp4", "no sound"]] and data["failed"] == []
    assert data["samples"] == 1
    assert encode(source, tmp_path / "cache").data["skipped"] == data["skipped"]


def test_repair_gives_failed_clips_another_chance(
    source: Path, tmp_path: Path, encode: Encode, command: Callable[..., footage.Command]
) -> None:
    no_video(source)
    encode(source, tmp_path / "cache")
    ended = command("data", "check", tmp_path / "cache", "--repair", "--json").end()
    assert ended.data["dropped"] == ["bad.mp4"]
    assert encode(source, tmp_path / "cache").data["known"] == 1  # and the other one was looked at again
    status = [clip.facts["status"] for clip in Index(tmp_path / "cache").clips.values()]
    assert sorted(status) == ["encoded", "failed"]


def test_numbers_without_padding_are_in_order(tmp_path: Path) -> None:
    footage.pictures(tmp_path, 12)
    assert [path.name for path in numbered(tmp_path)] == [f"frame_{number}.png" for number in range(12)]
    (tmp_path / "other_3.png").touch()
    with pytest.raises(InputFileError, match="number that stands there twice"):
        numbered(tmp_path)
    (tmp_path / "other_3.png").rename(tmp_path / "cover.png")
    with pytest.raises(InputFileError, match="without a number"):
        numbered(tmp_path)


@pytest.mark.parametrize(
    ("make", "status", "words"),
    [
        (lambda source: source.mkdir(), 4, "got no clip"),
        (lambda source: None, 4, "got no such folder"),
        (lambda source: source.write_text("x"), 4, "expected a folder, a list (.txt) or a video"),
        (lambda source: (source.mkdir(), no_video(source)), 4, "none of them usable"),
    ],
    ids=["empty", "absent", "file", "unusable"],
)
def test_a_source_without_clips_is_an_error(
    tmp_path: Path, start: Start, make: Callable[[Path], None], status: int, words: str
) -> None:
    make(tmp_path / "in")
    ended = start(tmp_path / "in", tmp_path / "cache").end()
    assert ended.status == status and words in ended.log and "Traceback" not in ended.log


def test_other_settings_and_weights_are_refused_with_the_difference(
    source: Path, tmp_path: Path, weights: Path, encode: Encode, start: Start
) -> None:
    cache = tmp_path / "cache"
    encode(source, cache)
    before = footage.contents(cache).keys()
    ended = start(source, cache, "--stride", "4", "--fps", "30").end()
    assert ended.status == 7
    assert "stride: was null, is 4" in ended.log and 'fps: was null, is "30"' in ended.log and "--force" in ended.log
    assert start(source, cache, "--stride", "4", "--dry-run").end().status == 7

    other = tmp_path / "weights"
    other.mkdir()
    for path in weights.iterdir():
        (other / path.name).symlink_to(path)
    (other / "vae.safetensors").unlink()
    data = bytearray((weights / "vae.safetensors").read_bytes())
    data[-5] ^= 1
    (other / "vae.safetensors").write_bytes(data)
    ended = start(source, cache, "--weights", str(other)).end()
    assert ended.status == 7 and "vae (" in ended.log and "sha256 was" in ended.log
    assert footage.contents(cache).keys() == before

    assert encode(source, cache, "--stride", "4", "--force").data["encoded"] == 1
    assert json.loads((cache / "cache.json").read_text())["settings"]["stride"] == 4
    assert len(footage.contents(cache)) == 1


def test_a_folder_with_other_things_is_no_cache(source: Path, tmp_path: Path, start: Start) -> None:
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "photo.jpg").touch()
    for more in ((), ("--force",)):
        ended = start(source, tmp_path / "holiday", *more).end()
        assert ended.status == 2 and "photo.jpg" in ended.log
    assert [path.name for path in (tmp_path / "holiday").iterdir()] == ["photo.jpg"]


def test_a_damaged_note_of_the_settings(source: Path, tmp_path: Path, encode: Encode, start: Start) -> None:
    encode(source, tmp_path / "cache")
    (tmp_path / "cache" / "cache.json").write_text("{}")
    ended = start(source, tmp_path / "cache").end()
    assert ended.status == 4 and "--force" in ended.log
    assert encode(source, tmp_path / "cache", "--force").data["encoded"] == 1


def test_every_mistake_of_the_settings_is_told_at_once(source: Path, tmp_path: Path, start: Start) -> None:
    (tmp_path / "mine.yaml").write_text("prompts: hello\nstride: 0\n")
    ended = start(source, tmp_path / "cache", "--preset", str(tmp_path / "mine.yaml"), "--size", "50x50").end()
    assert ended.status == 2
    for words in ("prompts", "did you mean prompt", "stride", "50x50", "--size"):
        assert words in ended.log
    assert not (tmp_path / "cache").exists()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_place(source: Path, tmp_path: Path, start: Start) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    ended = start(source, tmp_path / "locked" / "cache").end()
    assert ended.status == 4 and "can't be written" in ended.log
