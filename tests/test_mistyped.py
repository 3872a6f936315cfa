"""Tests with command lines that can't be read: the message names the option, the hint is the command that was meant."""

from __future__ import annotations

import json
import shlex
import sys
from typing import Any

import pytest

from avatarctl import cli

# command line -> what the message says, the hint
MISTYPED = [
    ("generate --imge me.jpg -a x.wav", "--imge: no such option", "avatarctl generate --image me.jpg -a x.wav"),
    ("generate --imge=me.jpg -a x.wav", "did you mean --image?", "avatarctl generate --image=me.jpg -a x.wav"),
    ("generate me.jpg talk.mp3", "got 'me.jpg, talk.mp3'", "avatarctl generate --image me.jpg --audio talk.mp3"),
    ("generate 'my face.jpg'", "got 'my face.jpg'", "avatarctl generate --image 'my face.jpg' --audio RECORDING"),
    ("demo face.jpg", "expected --image", "avatarctl demo --image face.jpg"),
    ("demo talk.mov -o x.mp4", "expected --audio", "avatarctl demo --audio talk.mov -o x.mp4"),
    ("batch voices -o out me.png", "expected --image", "avatarctl batch voices -o out --image me.png"),
    ("demo face.jpg other.jpg", "expected no further words", "`avatarctl demo --help` shows what it accepts"),
    ("dmeo --say hi", "dmeo: no such command", "avatarctl demo --say hi"),
    ("presets shwo square", "no such command of `avatarctl presets`", "avatarctl presets show square"),
    ("klingon", "klingon: no such command", "`avatarctl --help` lists the commands"),
    ("presets show", "NAME: missing", "avatarctl presets show NAME"),
    ("generate", "--audio: missing", "avatarctl generate --audio RECORDING"),
    ("lora convert x", "expected one of diffusers, released", "avatarctl lora convert x --to diffusers"),
    ("generate --steps many -a x", "--steps: got 'many', expected a whole number", "--help` shows"),
    ("generate --crf -a x", "--crf: got '-a', expected a whole number", "--help` shows"),
    ("generate --audio-scale loud -a x", "--audio-scale: got 'loud', expected a number", "--help` shows"),
    ("generate --progress jsn -a x", "expected auto, json or none, did you mean json?", "--help` shows"),
    ("puppet data -o x --clips 0", "--clips: got '0', expected 1 to 100,000", "--help` shows"),
    ("generate -a", "-a: got no value, expected -a RECORDING", "--help` shows"),
    ("generate --keep=3 -a x", "--keep: got a value, expected none", "--help` shows"),
    ("demo --rank 3", "--rank: no such option of `avatarctl demo`; lora train has it", "--help` shows"),
    ("help generat", "generat: no such command", "avatarctl help generate"),
]  # fmt: skip


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["avatarctl", *shlex.split(line)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capsys.readouterr()
    assert isinstance(end.value.code, int)
    return end.value.code, out, err


@pytest.mark.parametrize(("line", "message", "hint"), MISTYPED, ids=[each[0] for each in MISTYPED])
def test_a_person_reads_message_and_hint(
    line: str, message: str, hint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(monkeypatch, capsys, line)
    assert code == 2 and out == "" and "Traceback" not in err
    told = " ".join(err.split())
    assert told.startswith("error: ") and message in told and hint in told.rpartition("hint: ")[2]


@pytest.mark.parametrize(("line", "message", "hint"), MISTYPED, ids=[each[0] for each in MISTYPED])
def test_a_script_reads_the_same(
    line: str, message: str, hint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = line.split(" ", 1)
    line = f"{line} --json" if not line.endswith(" -a") else f"{words[0]} --json {words[1]}"
    code, out, _ = run(monkeypatch, capsys, line)
    found: Any = json.loads(out)
    assert found["exit_code"] == code == 2 and found["status"] == "failed"
    (told,) = found["errors"]
    assert message in told["message"] and told["hint"]
    if hint.startswith("avatarctl") and "RECORDING" not in hint:
        assert shlex.split(told["hint"])[:3] == shlex.split(hint)[:3]


@pytest.mark.parametrize(
    "line", [each[0] for each in MISTYPED if each[2].startswith("avatarctl") and not each[2].split()[-1].isupper()]
)
def test_the_command_of_the_hint_can_be_read(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, err = run(monkeypatch, capsys, line)
    hint = err.split("hint: ")[1].strip().removeprefix("avatarctl ")
    monkeypatch.setattr(sys, "argv", ["avatarctl", *shlex.split(hint), "--no-such-option-at-all"])
    with pytest.raises(SystemExit):
        cli.main()  # the parser stops at the first thing that it can't read: now that is the option added
    told = capsys.readouterr().err
    assert "--no-such-option-at-all" in told or "--output: missing" in told
