"""Tests of folders of clips as people have them: kinds of films, names, captions in UTF-16 and GBK, files that are no clips."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from avatarctl.data.discover import discover, passed_over
from avatarctl.errors import InputFileError
from avatarctl.settings.encode import EncodeSettings

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
FILMS = ("mp4", "MOV", "mkv", "webm", "avi", "m4v", "3gp", "mpg", "ts", "mts", "wmv", "flv", "ogv")


def test_every_kind_of_film_is_a_clip_and_the_rest_is_named(tmp_path: Path) -> None:
    for ending in FILMS:
        (tmp_path / f"clip_{ending}.{ending}").touch()
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "clip_mp4.face.mp4").touch()
    (tmp_path / "clip_mp4.txt").write_text("a caption")
    (tmp_path / "deep" / "released" / "images").mkdir(parents=True)
    (tmp_path / "deep" / "released" / "images" / "frame_0.png").touch()
    for name in ("notes.txt", "voice.wav", "deep/list.csv", ".DS_Store"):
        (tmp_path / name).touch()
    clips = discover(tmp_path)
    assert {Path(clip.name).suffix[1:] for clip in clips if clip.path.is_file()} == set(FILMS)
    assert len(clips) == len(FILMS) + 1
    assert passed_over(tmp_path, clips) == ["deep/list.csv", "notes.txt", "voice.wav"]


def test_caption_and_masks_are_found_however_an_accent_is_written(tmp_path: Path) -> None:
    (tmp_path / f"caf{COMPOSED}.mp4").touch()
    (tmp_path / f"caf{DECOMPOSED}.txt").write_text("a caption")
    (tmp_path / "masks" / f"caf{DECOMPOSED}.lip").mkdir(parents=True)
    (tmp_path / "list.txt").write_text(f"caf{DECOMPOSED}.mp4\n")
    for source in (tmp_path, tmp_path / "list.txt"):
        [clip] = discover(source)
        assert clip.caption is not None and clip.lip is not None and clip.face is None
        assert clip.prompt(EncodeSettings()) == "a caption"
    assert passed_over(tmp_path, discover(tmp_path)) == ["list.txt"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_captions_that_say_their_encoding_are_read(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "a.txt").write_bytes("Eine Frau spricht.\r\n她在说话".encode(encoding))
    [clip] = discover(tmp_path)
    assert clip.prompt(EncodeSettings()) == "Eine Frau spricht. 她在说话"


@pytest.mark.parametrize(
    ("encoding", "fix"), [("gbk", "iconv -f CP1252"), ("cp1252", "iconv -f CP1252"), ("utf-16-le", "iconv -f UTF-16LE")]
)
def test_captions_in_an_unknown_encoding_fail_with_the_command_that_helps(
    encoding: str, fix: str, tmp_path: Path
) -> None:
    (tmp_path / "a.mp4").touch()
    text = "她在说话" if encoding == "gbk" else "Él habla" if encoding == "cp1252" else "she talks"
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    [clip] = discover(tmp_path)
    with pytest.raises(InputFileError, match=r"a\.txt: got a caption that can't be read") as found:
        clip.prompt(EncodeSettings())
    assert fix in found.value.message and "a-utf8.txt" in found.value.hint


def test_names_that_are_no_utf8_are_passed_over_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / os.fsdecode(b"caf\xe9.doc")).touch()
    assert passed_over(tmp_path, discover(tmp_path)) == [os.fsdecode(b"caf\xe9.doc")]
