"""Tests with the parts of `data prepare`: pieces at pauses, crops, sharpness, black bars, names and copies of footage."""

from __future__ import annotations

import hashlib
import math
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter
from scenes import photograph

from avatarctl.data.clips import WHOLE, windows
from avatarctl.data.prepare.crop import cut_of
from avatarctl.data.prepare.pieces import pieces
from avatarctl.data.prepare.quality import Bars, sharpness
from avatarctl.data.prepare.sources import Earlier, copies, find_sources
from avatarctl.errors import InputFileError, UsageError
from avatarctl.settings.prepare import PrepareSettings

# -- Pieces --------------------------------------------------------------------------------------------------------------


def speech(count: int, *pauses: tuple[int, int]) -> np.ndarray:
    flags = np.ones(count, bool)
    for begin, end in pauses:
        flags[begin:end] = False
    return flags


def split(flags: np.ndarray, span: tuple[int, int] | None = None) -> list[tuple[int, int]]:
    return pieces(span or (0, len(flags)), flags, np.where(flags, -20.0, -80.0), 25.0, 4.0, 20.0)


def test_what_is_short_enough_stays_whole() -> None:
    assert split(speech(500, (200, 215))) == [(0, 500)]
    assert split(speech(600), (40, 110)) == [(40, 110)]


def test_long_speech_is_split_at_pauses_into_pieces_of_4_to_20_s() -> None:
    pauses = [(at, at + 10) for at in range(90, 2000, 130)]
    found = split(speech(2000, *pauses))
    assert found[0][0] == 0 and found[-1][1] == 2000
    assert all(one[1] == other[0] for one, other in pairwise(found))
    assert all(100 <= end - begin <= 500 for begin, end in found)
    assert all(any(first <= end < last for first, last in pauses) for _, end in found[:-1]), "a word is cut"


def test_speech_without_a_pause_is_split_where_it_is_quietest() -> None:
    flags, level = speech(700), np.full(700, -20.0)
    level[330] = -40
    assert pieces((0, 700), flags, level, 25.0, 4.0, 20.0) == [(0, 330), (330, 700)]


def test_long_pauses_are_pieces_of_their_own() -> None:
    found = split(speech(500, (200, 300)))
    assert found == [(0, 210), (210, 290), (290, 500)]
    assert split(speech(300, (0, 100))) == [(0, 90), (90, 300)]


# -- Crops ---------------------------------------------------------------------------------------------------------------

SETTINGS = PrepareSettings()


@pytest.mark.parametrize(
    ("width", "height", "size"), [(1920, 1080, (832, 480)), (1080, 1920, (480, 832)), (1200, 1100, (512, 512))]
)
def test_a_crop_holds_the_head_in_the_shape_of_the_nearest_size(width: int, height: int, size: tuple[int, int]) -> None:
    head = (0.4 * width, 0.2 * height, 0.4 * width + 300, 0.2 * height + 330)
    cut = cut_of(head, (0, 0, width, height), SETTINGS)
    x0, y0, x1, y1 = cut.box
    assert cut.size == size and abs((x1 - x0) / (y1 - y0) - size[0] / size[1]) < 0.01
    assert 0 <= x0 <= head[0] and head[2] <= x1 <= width and 0 <= y0 <= head[1] and head[3] <= y1 <= height
    assert y1 - y0 >= 1.9 * 330 - 2 or y1 - y0 == height or x1 - x0 == width


def test_a_small_head_is_never_enlarged_and_small_footage_makes_small_clips() -> None:
    cut = cut_of((900, 400, 1000, 520), (0, 0, 1920, 1920), SETTINGS)
    assert cut.size == (512, 512) and cut.box[3] - cut.box[1] == 512
    larger = cut_of((900, 400, 1000, 520), (0, 0, 1920, 1920), PrepareSettings(max_enlarge=2.0))
    assert larger.size == (512, 512) and larger.box[3] - larger.box[1] == 256
    small = cut_of((100, 60, 180, 160), (0, 0, 320, 240), SETTINGS)
    assert small.size == (320, 184) and small.box[2] - small.box[0] == 320


def test_bars_are_left_out_of_the_crop() -> None:
    bars = Bars((320, 240))
    picture = np.full((240, 320, 3), 16, np.uint8)
    picture[30:210] = 120
    list(bars.watched([picture] * 3, 25))
    assert bars.inside() == (0, 30, 320, 210)
    cut = cut_of((120, 60, 200, 170), bars.inside(), SETTINGS)
    assert cut.box[1] >= 30 and cut.box[3] <= 210
    dark = Bars((320, 240))
    list(dark.watched([np.zeros((240, 320, 3), np.uint8)], 25))
    assert dark.inside() == (0, 0, 320, 240)


# -- Sharpness -----------------------------------------------------------------------------------------------------------


def test_sharpness_falls_with_blur_whatever_size_and_contrast() -> None:
    whole = photograph()[60:240, 150:300]
    box = np.array([0, 0, 150, 180])
    found = [
        sharpness(np.array(Image.fromarray(whole).filter(ImageFilter.GaussianBlur(blur))), box)
        for blur in (0, 1, 2, 4, 8)
    ]
    assert found == sorted(found, reverse=True) and found[0] > 0.35 > 0.2 > found[3]
    pale = (whole // 3 + 100).astype(np.uint8)
    assert abs(sharpness(pale, box) - found[0]) < 0.06
    large = np.array(Image.fromarray(whole).resize((600, 720), Image.Resampling.BICUBIC))
    assert abs(sharpness(large, box * 4) - found[0]) < 0.1
    assert math.isnan(sharpness(whole, np.array([200, 10, 260, 60])))


# -- Footage -------------------------------------------------------------------------------------------------------------


def films(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def test_footage_is_named_by_its_place_and_names_stay(tmp_path: Path) -> None:
    one = films(tmp_path / "day1", "a.mp4", "a.mov", "speech/b.mkv", "notes.pdf", "a.txt", ".c.mp4")
    other = films(tmp_path / "day2", "a.mp4")
    found, over = find_sources([one, other], tmp_path / "clips", {})
    assert [source.name for source in found] == ["a", "a.mp4", "day2/a.mp4", "speech/b"] and over == ["notes.pdf"]
    assert found[0].path == one / "a.mov" and len({source.key for source in found}) == 4
    named = {str(source.path.absolute()): source.name for source in found}
    films(one, "0.mp4")
    again, _ = find_sources([other, one], tmp_path / "clips", named)
    assert {str(source.path.absolute()): source.name for source in again}.items() > named.items()
    clash = films(tmp_path / "more" / "day2", "a.mp4")
    with pytest.raises(UsageError, match="second file of this name"):
        find_sources([one, other, clash], tmp_path / "clips", {})


def test_the_folder_of_clips_and_links_that_lead_up_are_no_footage(tmp_path: Path) -> None:
    raw = films(tmp_path / "raw", "a.mp4", "clips/a-001.mp4")
    (raw / "up").symlink_to(raw)
    found, _ = find_sources([raw], raw / "clips", {})
    assert [source.name for source in found] == ["a"]


def test_copies_are_told_by_content(tmp_path: Path) -> None:
    folder = films(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    (folder / "d.mp4").write_text("a.mp4")
    (folder / "e.mp4").write_text("")
    (folder / "f.mp4").write_text("")
    found, _ = find_sources([folder], tmp_path / "clips", {})
    assert copies(found) == {"d": "a"}
    stamps = {source.name: source.stamp() for source in found}
    content = hashlib.sha256(b"a.mp4").hexdigest()

    def earlier(name: str, is_copy: bool, sha256: str = content) -> Earlier:
        return Earlier(name, stamps.get(name, "5 0"), sha256, is_copy)

    assert copies(found, [earlier("d", False)]) == {"a": "d"}, "what was prepared is the original"
    assert copies(found, [earlier("d", True)]) == {"d": "a"}, "two copies of each other: neither would be prepared"
    assert copies(found, [earlier("gone", False)]) == {"a": "gone", "d": "gone"}, "its clips are there"
    changed = Earlier("b", "5 0", content, False)
    assert copies(found, [changed]) == {"d": "a"}, "it had this content once"
    assert copies([found[1]], [earlier("b", False)]) == {}
    (folder / "a.mp4").write_text("something else")
    assert copies(found, [earlier("a", False)]) == {}, "it has another size by now"


def test_ten_thousand_files(tmp_path: Path) -> None:
    """Pictures, which are no footage; then videos, each named twice, half of them copies: neither takes long."""
    for number in range(10_000):
        (tmp_path / f"{number}.jpg").touch()
    with pytest.raises(InputFileError, match="got no video"):
        find_sources([tmp_path], tmp_path / "clips", {})
    for number in range(10_000):
        (tmp_path / f"{number}.jpg").rename(tmp_path / f"{number:05d}.mp4")
        (tmp_path / f"{number:05d}.mp4").write_text(f"{number % 5_000:05d}")
    began = time.monotonic()
    found, over = find_sources([tmp_path, *sorted(tmp_path.iterdir())[:100]], tmp_path / "clips", {})
    twice = copies(found)
    assert len(found) == 10_000 and over == []
    assert twice == {f"{number + 5_000:05d}": f"{number:05d}" for number in range(5_000)}
    earlier = [Earlier(each.name, each.stamp(), each.name, False) for each in found]
    assert copies(found, earlier) == {}, "what is known isn't read again"
    assert time.monotonic() - began < 60


# -- Windows and cuts ----------------------------------------------------------------------------------------------------


def test_no_window_shows_two_shots() -> None:
    rows = [(np.full((1, 1, 3), number, np.uint8),) for number in range(60)]

    def cut(short: str, *shots: tuple[int, int], heard: int = 60) -> list[tuple[int, int]]:
        return [(each.start, each.frames) for each in windows(rows, 9, 9, heard, short, shots or (WHOLE,))]  # type: ignore[arg-type]

    assert cut("pad") == [(start, 9) for start in range(0, 54, 9)]
    assert cut("pad", (0, 20), (24, 28), (30, 60)) == [(0, 9), (9, 9), (24, 4), (30, 9), (39, 9), (48, 9)]
    assert cut("skip", (0, 20), (24, 28), (30, 60)) == [(0, 9), (9, 9), (30, 9), (39, 9), (48, 9)]
    assert cut("pad", (0, 20), (24, 60), heard=30) == [(0, 9), (9, 9), (24, 6)]
    for window in windows(rows, 9, 9, 60, "pad", ((0, 20), (24, 28), (30, 60))):
        shown = [int(row[0][0, 0, 0]) for row in window.rows]  # type: ignore[index]
        assert shown[: window.frames] == list(range(window.start, window.start + window.frames))
        assert set(shown[window.frames :]) <= {window.start + window.frames - 1}
