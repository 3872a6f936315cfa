"""Tests with subtitles: read strictly, moved and cut with the recording, in each container with their language."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
from containers import languages, shown, told
from workshop import Case, straight

from avatarctl.errors import InputFileError
from avatarctl.render.subtitles import part_of, read_subtitles, to_text
from avatarctl.settings.check import make
from avatarctl.settings.languages import parse_subtitles
from avatarctl.settings.render import AllSettings

NewCase = Callable[..., Case]
SRT = """1
00:00:00,100 --> 00:00:00,300
Guten <i>Tag</i>,
Frau Müller & Söhne

2
00:00:00,400 --> 00:00:00,650
zweitens

3
00:00:00,700 --> 00:00:02,000
drittens
"""
VTT = """WEBVTT - talk

NOTE made by hand
over two lines

STYLE
::cue { color: red }

first
00:00.100 --> 00:00.300 align:start line:0
Good <b>day</b>

00:00:00.400 --> 00:00:00.650
second <00:00:00.500>word
"""


def written(folder: Path, text: str, name: str = "talk.srt", encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def test_both_formats_are_read(tmp_path: Path) -> None:
    srt = read_subtitles(written(tmp_path, SRT.replace("\n", "\r\n")))
    assert srt.kind == "srt" and [(cue.start_ms, cue.end_ms) for cue in srt.cues] == [
        (100, 300),
        (400, 650),
        (700, 2000),
    ]
    assert srt.cues[0].text == "Guten <i>Tag</i>,\nFrau Müller & Söhne"
    vtt = read_subtitles(written(tmp_path, VTT, "talk.vtt"))
    assert vtt.kind == "vtt" and [cue.text for cue in vtt.cues] == ["Good <b>day</b>", "second <00:00:00.500>word"]
    assert vtt.cues[0].place == "align:start line:0"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_that_say_so_are_read(tmp_path: Path, encoding: str) -> None:
    assert "Müller" in read_subtitles(written(tmp_path, SRT, encoding=encoding)).cues[0].text


def test_an_encoding_that_is_unknown_is_refused_with_the_command_that_helps(tmp_path: Path) -> None:
    with pytest.raises(InputFileError) as caught:
        read_subtitles(written(tmp_path, SRT, encoding="cp1252"))
    assert "line 4" in caught.value.message and "iconv -f CP1252 -t UTF-8" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        (SRT.replace("00:00:00,400 -->", "00:00:00,400 ->"), "a.srt", "a.srt, line 7: got '00:00:00,400 ->"),
        (SRT.replace("2\n00:00:00,400", "00:00:00,4x0"), "a.srt", "a.srt, line 6: got '00:00:00,4x0"),
        (
            SRT.replace("00:00:00,650", "00:00:00,350"),
            "a.srt",
            "line 7: got '00:00:00,400 --> 00:00:00,350', expected an end",
        ),
        (
            SRT.replace("zweitens\n\n", "zweitens\n"),
            "a.srt",
            "line 10: got '00:00:00,700 --> 00:00:02,000', expected an empty",
        ),
        (SRT.replace("00:00:00,400", "00:61:00,400"), "a.srt", "line 7: got '00:61:00,400"),
        (SRT, "a.vtt", "a.vtt, line 1: got '1', expected WEBVTT"),
        (VTT.replace("-->", "->"), "a.vtt", "a.vtt, line 10: got '00:00.100 -> 00:00.300 align:start line:0'"),
        ("WEBVTT\nX-TIMESTAMP-MAP=LOCAL:00:00:00.000,MPEGTS:0\n", "a.vtt", "line 2: got 'X-TIMESTAMP-MAP"),
        ("[Script Info]\nTitle: x\n", "a.ass", "a.ass, line 1: got '[Script Info]'"),
        ("\n\n", "a.srt", "a.srt: got no subtitles"),
        ("WEBVTT\n\nNOTE nothing\n", "a.vtt", "a.vtt: got no subtitles"),
    ],
)
def test_mistakes_are_named_with_their_line(tmp_path: Path, text: str, name: str, said: str) -> None:
    with pytest.raises(InputFileError) as caught:
        read_subtitles(written(tmp_path, text, name))
    assert said in caught.value.message and caught.value.hint


def test_a_part_is_moved_and_cut_on_the_video_s_clock(tmp_path: Path) -> None:
    cues = part_of(read_subtitles(written(tmp_path, SRT)), Fraction("0.2"), Fraction("0.8")).cues
    assert [(cue.start_ms, cue.end_ms) for cue in cues] == [(0, 100), (200, 450), (500, 800)]
    vtt = part_of(read_subtitles(written(tmp_path, VTT, "talk.vtt")), Fraction("0.45"), Fraction(9))
    assert to_text(vtt) == "WEBVTT\n\n00:00:00.000 --> 00:00:00.200\nsecond <00:00:00.050>word\n"
    assert part_of(vtt, Fraction(9), Fraction(1)).cues == ()


def test_what_is_written_reads_the_same(tmp_path: Path) -> None:
    for text, name in ((SRT, "a.srt"), (VTT, "a.vtt")):
        once = read_subtitles(written(tmp_path, text, name))
        assert read_subtitles(written(tmp_path, to_text(once), name)) == once


@pytest.mark.parametrize(
    ("given", "code", "file"),
    [
        ("de:talk.srt", "deu", "talk.srt"),
        ("GER:a:b.vtt", "deu", "a:b.vtt"),
        ("und:x.srt", "und", "x.srt"),
        ("fr:/a b", "fra", "/a b"),
    ],
)
def test_languages(given: str, code: str, file: str) -> None:
    assert parse_subtitles(given) == (code, file)
    assert make(AllSettings, {"subtitles": given}).subtitles == (given,)


@pytest.mark.parametrize(
    "given", ["talk.srt", "de:", "xx:talk.srt", "pt-BR:talk.srt", "german:talk.srt", "C:/talk.srt"]
)
def test_what_names_no_language_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match=r"ISO 639 code such as de:talk\.srt"):
        parse_subtitles(given)


@pytest.mark.parametrize(
    ("suffix", "codec", "wanted"),
    [
        (".mp4", "mov_text", ["und", "und", "deu", "eng"]),
        pytest.param(".mov", "mov_text", ["", "", "deu", "eng"], marks=pytest.mark.long),
        pytest.param(".mkv", "subrip", ["und", "und", "ger", "eng"], marks=pytest.mark.long),
        (".webm", "webvtt", ["und", "und", "ger", "eng"]),
    ],
)
def test_tracks_travel_in_each_container_killed_or_not(
    new_case: NewCase, suffix: str, codec: str, wanted: list[str]
) -> None:
    made = []
    for name, stop in (("straight", False), ("cut", True)):
        case = new_case(name)
        case.output, case.render = case.folder / f"talk{suffix}", case.folder / f"talk{suffix}.render"
        german, english = written(case.folder, SRT), written(case.folder, VTT, "talk.vtt")
        flags = (
            "--subtitles",
            f"de:{german}",
            "--subtitles",
            f"en:{english}",
            "--start",
            "0:00.2",
            "--duration",
            "0.4",
        )
        if stop:
            case.stop(*flags, steps=3)
            resumed = case.command("resume", str(case.render))
            assert resumed.status == 0, resumed.log
        else:
            straight(case, *flags)
        assert german.read_text() == SRT and english.read_text() == VTT
        made.append(case.bytes())
    assert made[0] == made[1]
    assert languages(case.output) == wanted and told(case.output).count(f"Subtitle: {codec}") == 2
    assert shown(case.output) == (
        "1\n00:00:00,000 --> 00:00:00,100\nGuten <i>Tag</i>,\nFrau Müller & Söhne\n\n"
        "2\n00:00:00,200 --> 00:00:00,400\nzweitens\n\n"
    )
    second = shown(case.output, 1, "webvtt")
    assert "00:00.000 --> 00:00.100" in second and "Good <b>day</b>" in second and "00:00.200 --> 00:00.400" in second


def test_subtitles_are_an_input_like_others(case: Case) -> None:
    path = written(case.folder, SRT)
    case.stop("--subtitles", f"de:{path}")
    manifest = json.loads((case.render / "render.json").read_text())
    assert manifest["job"]["subtitles"] == [["deu", str(path)]]
    assert set(manifest["inputs"]) == {"image", "audio", "subtitles 1 (deu)"}
    path.write_text(SRT.replace("zweitens", "anderes"))
    refused = case.command("resume", str(case.render))
    assert refused.status == 7 and f"subtitles 1 (deu) ({path}): another file than last time" in refused.log
    path.write_text(SRT)
    assert case.command("resume", str(case.render)).status == 0
    assert "zweitens" in shown(case.output)


def test_broken_subtitles_are_refused_before_anything_is_rendered(case: Case) -> None:
    path = written(case.folder, SRT.replace("-->", "to"))
    for more in ((), ("--dry-run",)):
        refused = case.generate("--subtitles", f"de:{path}", *more)
        assert refused.status == 4 and f"{path}, line 2" in refused.log and not case.render.exists()
    refused = case.generate("--subtitles", "talk.srt")
    assert refused.status == 2 and "expected LANGUAGE:FILE" in refused.log
    refused = case.generate("--subtitles", "de:none.srt")
    assert refused.status == 4 and "none.srt: got no such file, expected subtitles" in refused.log


def test_subtitles_outside_the_part_that_is_used_are_told(case: Case) -> None:
    late = written(case.folder, "1\n00:01:00,000 --> 00:01:01,000\nlate\n")
    attempt = case.generate("--subtitles", f"de:{late}")
    assert attempt.status == 0 and "1 of 1 subtitles lie outside the part" in attempt.log
    assert "Subtitle" not in told(case.output)
