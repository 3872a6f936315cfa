"""Tests of hints: done as they say, the mistake is gone."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from avatarctl import cli
from avatarctl.paths import embedded_avatar

SAMPLES = embedded_avatar() / "samples"


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a picture, a recording, and folders of both."""
    monkeypatch.setenv("AVATARCTL_HOME", str(tmp_path / "home"))
    desk = tmp_path / "desk"
    (desk / "pictures").mkdir(parents=True)
    (desk / "voices").mkdir()
    shutil.copy(SAMPLES / "picture.png", desk / "me.png")
    shutil.copy(SAMPLES / "picture.png", desk / "pictures" / "a.png")
    shutil.copy(SAMPLES / "voice.wav", desk / "talk.wav")
    shutil.copy(SAMPLES / "voice.wav", desk / "voices" / "a.wav")
    (desk / "empty").mkdir()
    monkeypatch.chdir(desk)
    return desk


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]) -> tuple[int, str, str]:
    """Return exit code, stdout and stderr of a command line."""
    monkeypatch.setattr(sys, "argv", ["avatarctl", *words])
    try:
        cli.main()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    return code, *capsys.readouterr()


# command line -> the setting that the hint's command explains, and the preset that it names
SETTINGS = [
    ("generate -i me.png -a talk.wav -p puppet --crf 99", "puppet", "crf", "whole number, 0 to 51"),
    ("generate -i me.png -a talk.wav -p puppet --device gpu", "puppet", "device", "cuda:N"),
    ("generate -i me.png -a talk.wav -p draft --shift -1", "draft", "shift", "more than 0"),
    ("generate -i me.png -a talk.wav --loudness 3", "square", "loudness", "0 or less"),
    ("generate -i me.png -a talk.wav -p puppet --lora x.safetensors:loud", "puppet", "lora", "FILE:SCALE"),
    ("lora train --data empty -o run --set stepz=3", "person-1.3b", "steps", "1 or more"),
    ("train --data empty -o run -p tiny --set rank=0", "tiny", "rank", "1 to 4096"),
    ("train --data empty -o run --learning-rate -1", "full-1.3b", "learning_rate", "more than 0"),
    ("data encode voices -o cache --stride 0", "puppet", "stride", "1 or more"),
]


@pytest.mark.parametrize(("line", "preset", "setting", "told"), SETTINGS, ids=[each[0] for each in SETTINGS])
def test_a_hint_names_the_preset_in_use_and_explains_the_setting(
    line: str,
    preset: str,
    setting: str,
    told: str,
    desk: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, _, err = run(monkeypatch, capsys, line.split())
    assert code == 2
    hint = err.rpartition("hint: ")[2]
    command = re.findall(r"`avatarctl ([^`]*)`", hint)[0].split()
    assert command[:3] == ["presets", "show", preset] and command[-1] == setting
    code, out, _ = run(monkeypatch, capsys, command)
    assert code == 0 and out.startswith(f"{setting} = ") and told in " ".join(out.split())


def test_flags_that_a_message_names_exist(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, err = run(monkeypatch, capsys, ["lora", "train", "--data", "empty", "-o", "run", "--set", "stepz=3"])
    assert "--stepz" not in err and "stepz (--set stepz): unknown setting, did you mean steps?" in err


# command line, what its hint says to add or to replace, the command line done as it says
FIXED = [
    (
        "batch voices -i picturs -o out -p puppet --dry-run",
        "--image pictures",
        "batch voices -i pictures -o out -p puppet --dry-run",
    ),
    ("batch voices -o out --dry-run", "--image PICTURE", "batch voices -o out --dry-run --image me.png"),
    (
        "generate -i me.png -a talk.wav --dry-run --weights nowhere",
        "--preset puppet",
        "generate -i me.png -a talk.wav --dry-run --preset puppet",
    ),
    ("demo --voice de", "avatarctl demo --voice de --say", "demo --voice de --say hallo --bogus"),
]


@pytest.mark.parametrize(("line", "hint", "then"), FIXED, ids=[each[0] for each in FIXED])
def test_done_as_the_hint_says_the_mistake_is_gone(
    line: str, hint: str, then: str, desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(monkeypatch, capsys, line.split())
    assert code != 0 and hint in err.rpartition("hint: ")[2]
    first = err.partition("error: ")[2].partition("\n")[0]
    if "--bogus" not in then and "batch voices -o" not in line:
        code, _, err = run(monkeypatch, capsys, then.split())
        assert code == 0, err
    assert first not in run(monkeypatch, capsys, then.split())[2]


def test_encoding_without_weights_is_told_how_to_use_the_embedded_avatars(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (desk / "voices" / "a.mp4").write_bytes(b"")
    encode = ["data", "encode", "voices", "-o", "cache"]
    code, _, err = run(monkeypatch, capsys, [*encode, "--weights", "nowhere"])
    assert code == 5 and "--preset puppet --weights puppet" in err.rpartition("hint: ")[2]
    code, _, err = run(
        monkeypatch, capsys, ["data", "encode", "voices", "-o", "cache", "--preset", "puppet", "--weights", "puppet"]
    )
    assert code != 5


def test_a_run_folder_is_the_lora_in_it(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = shlex.split("generate -i me.png -a talk.wav -p puppet --dry-run --lora run:0.5")
    (desk / "run").mkdir()
    code, _, err = run(monkeypatch, capsys, line)
    assert code == 4 and "--lora: got a folder: run" in err and "run folder of `avatarctl lora train`" in err
    (desk / "run" / "lora.safetensors").write_bytes(b"")
    from avatarctl.settings.jobs import render_job

    job = render_job(desk / "me.png", desk / "talk.wav", desk / "x.mp4", "puppet", {"lora": ("run:0.5",)})
    assert job.lora == ((Path("run/lora.safetensors"), 0.5),)


def test_several_mistakes_are_explained_together(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["generate", "-i", "me.png", "-a", "talk.wav", "-p", "puppet", "--crf", "99", "--steps", "0", "--json"]
    code, out, _ = run(monkeypatch, capsys, line)
    (told,) = json.loads(out)["errors"]
    assert code == 2 and told["message"].split("\n") == [
        "steps (--steps): got '0', expected greater than or equal to 1",
        "crf (--crf): got '99', expected less than or equal to 51",
    ]
    assert told["hint"] == "`avatarctl presets show puppet --long` tells what each setting takes"
