"""Tests with every container and codec: killed and resumed is straight, segments join without gaps, clashes are refused."""

from __future__ import annotations

import math
import signal
import subprocess
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from workshop import Case, kill_when, straight

from avatarctl.audio.source import ffmpeg
from avatarctl.errors import UsageError
from avatarctl.render.join import join
from avatarctl.render.segment import SegmentWriter
from avatarctl.render.video import inspect
from avatarctl.settings.formats import CONTAINERS, format_of, home_of, named_after, with_suffix

NewCase = Callable[..., Case]
# suffix, codec asked for -> codec and pixel format that a reader finds, codec of the sound
FORMATS = [
    (".mp4", "auto", "h264", "yuv420p", "aac"),
    (".mp4", "hevc", "hevc", "yuv420p", "aac"),
    (".mp4", "av1", "av1", "yuv420p", "aac"),
    (".mov", "auto", "h264", "yuv420p", "aac"),
    (".mov", "hevc", "hevc", "yuv420p", "aac"),
    (".mov", "prores", "prores", "yuv422p10le", "pcm_s24le"),
    (".mkv", "auto", "h264", "yuv420p", "opus"),
    (".mkv", "hevc", "hevc", "yuv420p", "opus"),
    (".mkv", "vp9", "vp9", "yuv420p", "opus"),
    (".mkv", "av1", "av1", "yuv420p", "opus"),
    (".webm", "auto", "vp9", "yuv420p", "opus"),
    (".webm", "av1", "av1", "yuv420p", "opus"),
]
# One of each codec and each container; all of them under -m long.
FIRST = [(".mp4", "av1"), (".mov", "prores"), (".mkv", "hevc"), (".webm", "auto")]


def named(case: Case, suffix: str) -> Case:
    """Give a case's video another suffix."""
    case.output = case.folder / f"talk{suffix}"
    case.render = case.folder / f"talk{suffix}.render"
    return case


def times_of(path: Path, track: str = "v") -> list[tuple[int, int]]:
    """Return (time stamp, length) of each packet of a track, in units of the container."""
    command = [ffmpeg(), "-v", "error", "-i", path, "-map", f"0:{track}:0", "-c", "copy", "-f", "framecrc", "-"]
    rows = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    cells = [row.split(",") for row in rows if not row.startswith("#")]
    return [(int(cell[2]), int(cell[3])) for cell in cells]


def colours_of(path: Path) -> np.ndarray:
    """Return the pictures (T, H, W, 3) of a video as RGB."""
    command = [ffmpeg(), "-v", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, 64, 96, 3)


def test_the_table_holds_every_container_and_codec() -> None:
    assert {(suffix, codec) for suffix, container in CONTAINERS.items() for codec in container.codecs} == {
        (suffix, found) for suffix, _, found, _, _ in FORMATS
    }


@pytest.mark.parametrize(
    ("suffix", "codec", "found", "pixels", "sound"),
    [pytest.param(*each, marks=() if each[:2] in FIRST else pytest.mark.long) for each in FORMATS],
)
def test_killed_and_resumed_is_straight_to_the_byte(
    new_case: NewCase, suffix: str, codec: str, found: str, pixels: str, sound: str
) -> None:
    flags = ("--fps", "29.97", "--codec", codec, "--contact-sheet", "0.3")
    wanted = straight(named(new_case("straight"), suffix), *flags)
    case = named(new_case("cut"), suffix)
    case.stop(*flags, "--keep", steps=5)
    resumed = case.command("resume", str(case.render))
    assert resumed.status == 0, resumed.log
    assert case.bytes() == wanted
    again = case.command("renders", "verify", str(case.render))
    assert again.status == 0, again.log

    video = inspect(case.output)
    assert (video.codec, video.pixel_format, video.audio_codec) == (found, pixels, sound)
    assert (video.width, video.height, video.fps) == (64, 64, Fraction(30000, 1001))
    assert video.pictures == math.ceil(Fraction("0.68") * Fraction(30000, 1001)) == 21
    assert abs(video.audio_s - video.picture_s) <= 1 / 29.97
    # Segments join without gaps: every picture begins where the one before ends (Matroska rounds to a millisecond).
    packets = times_of(case.output)
    assert packets[0][0] == 0 and [start for start, _ in packets] == sorted(start for start, _ in packets)
    step = Fraction(1001, 30) if suffix in (".mkv", ".webm") else Fraction(packets[0][1])
    assert all(abs(start - number * step) <= (step != packets[0][1]) for number, (start, _) in enumerate(packets))
    with Image.open(case.output.with_suffix(".jpg")) as sheet:
        assert sheet.format == "JPEG" and sheet.size == (320, 320)


@pytest.mark.parametrize(("suffix", "codec"), [each[:2] for each in FORMATS])
def test_every_format_shows_the_colours_it_was_given(tmp_path: Path, suffix: str, codec: str) -> None:
    fps, video = Fraction(24000, 1001), format_of(Path(f"a{suffix}"), codec)
    colours = np.array([(200, 30, 40), (20, 180, 60), (30, 60, 200), (220, 220, 20), (128, 128, 128), (250, 250, 250)])
    given_THWC = np.zeros((9, 64, 96, 3), np.uint8)
    for picture in range(
        9
    ):  # six bars that move on with every picture, the first three pictures in a segment of their own
        given_THWC[picture] = np.repeat(np.roll(colours, picture, axis=0), 16, axis=0)[None]
    segments = [tmp_path / f"{number}{video.segment_suffix}" for number in range(2)]
    for path, part_THWC in zip(segments, (given_THWC[:3], given_THWC[3:]), strict=True):
        with SegmentWriter(path, 96, 64, fps, video) as writer:
            writer.write(part_THWC)
    target = tmp_path / f"whole{suffix}"
    join(segments, target, None, video)
    assert (inspect(target).pictures, inspect(target).fps) == (9, fps)
    shown_THWC = colours_of(target)
    middle = slice(8, None, 16)  # the edges between bars blur
    distance = np.abs(shown_THWC[:, 8:56, middle].astype(int) - given_THWC[:, 8:56, middle])
    assert distance.mean() < 3 and np.percentile(distance, 99) < 16, (distance.mean(), np.percentile(distance, 99))


@pytest.mark.parametrize(("suffix", "codec"), [(".mov", "prores"), (".webm", "vp9")])
def test_the_preview_is_of_the_video_s_kind(new_case: NewCase, suffix: str, codec: str) -> None:
    case = named(new_case(audio="long.wav"), suffix)
    stopped = case.generate("--codec", codec, meanwhile=kill_when(case, f"preview{suffix}"))
    assert stopped.status == -signal.SIGKILL, stopped.log
    video = inspect(case.render / f"preview{suffix}")
    assert (video.codec, video.fps, video.audio_codec) == (codec, 25, None) and video.pictures >= 5


@pytest.mark.parametrize(
    ("output", "codec", "message", "hint"),
    [
        ("a.avi", "auto", "a.avi: got the ending '.avi', expected .mp4, .mov, .mkv or .webm", "--output a.mp4"),
        ("a b", "vp9", "a b: got the ending '', expected", "--output 'a b.webm'"),
        ("a.mp4", "prores", "got the codec prores, expected h264, hevc or av1 in .mp4", "--output a.mov"),
        ("a.mp4", "vp9", "got the codec vp9, expected", "--output a.webm"),
        ("a.mov", "av1", "got the codec av1, expected h264, hevc or prores in .mov", "--output a.webm"),
        ("a.webm", "h264", "got the codec h264, expected vp9 or av1 in .webm", "--codec vp9, or --output a.mp4"),
    ],
)
def test_clashes_are_refused_with_what_fits(output: str, codec: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        format_of(Path(output), codec)
    assert message in caught.value.message and hint in caught.value.hint


def test_clashes_are_refused_before_anything_is_rendered(case: Case) -> None:
    refused = named(case, ".webm").generate("--codec", "prores")
    assert refused.status == 2 and "got the codec prores" in refused.log and not case.render.exists()
    fixed = case.generate("--codec", "prores", "-o", str(case.folder / "talk.mov"))  # as the hint says
    assert fixed.status == 0, fixed.log


def test_rate_factors_are_the_codec_s_own_and_prores_says_that_it_has_none(case: Case) -> None:
    assert [format_of(Path(name)).crf for name in ("a.mp4", "a.webm")] == [18, 24]
    assert format_of(Path("a.MP4"), crf=0).crf == 0 and format_of(Path("a.mov"), "prores", 20).crf is None
    attempt = named(case, ".mov").generate("--codec", "prores", "--crf", "20")
    assert attempt.status == 0 and "crf: 20 has no effect on prores" in attempt.log


def test_made_up_names_have_the_suffix_that_the_codec_is_at_home_in() -> None:
    assert [home_of(codec) for codec in ("auto", "h264", "prores", "vp9", "av1")] == [
        ".mp4",
        ".mp4",
        ".mov",
        ".webm",
        ".webm",
    ]
    assert str(named_after(Path("voices/talk.mp3"), "auto")) == "talk.mp4"
    assert str(named_after(Path("voices/talk.v2.mp3"), "prores")) == "talk.v2.mov"
    assert with_suffix("talk", "av1") == "talk.webm" and with_suffix("talk.MKV", "av1") == "talk.MKV"


def test_a_video_without_a_name_is_named_after_the_recording_in_the_current_folder(case: Case) -> None:
    argv = case.argv()
    place = argv.index("-o")
    done = case.command(*argv[:place], *argv[place + 2 :], "--quiet")
    assert done.status == 0 and "voice.mp4" in done.log.splitlines(), done.log
    assert inspect(case.folder / "voice.mp4").pictures == 17


def test_a_video_named_after_its_recording_is_never_the_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "talk.mp4").write_bytes(b"mine")
    for recording in (Path("talk.mp4"), tmp_path / "talk.mp4"):
        assert str(named_after(recording, "auto")) == "talk-avatar.mp4"
    assert str(named_after(Path("talk.mp4"), "vp9")) == "talk.webm"
