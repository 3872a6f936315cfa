"""Show what people and scripts read while work runs: a line that fits the terminal, JSON lines alone, errors wrapped at words."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest

from avatarctl import console, progress
from avatarctl.errors import InputFileError
from avatarctl.progress import showing

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "avatarctl/puppet/samples"
SHORT = ["generate", "--preset", "puppet", "-i", str(SAMPLES / "picture.png"), "-a", str(SAMPLES / "voice.wav")]
SHORT += ["--duration", "1", "--steps", "2"]
STAGES = ["loading", "sound", "loading", "conditions", "sampling", "decoding", "joining"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def environment(home: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "AVATARCTL_HOME": str(home), "OMP_NUM_THREADS": "1", **more}


def events(home: Path, *words: str) -> tuple[int, list[dict[str, Any]], str]:
    """Run a command with ``--progress json``; return its exit code, every line of stderr as JSON, and stdout."""
    command = [sys.executable, "-m", "avatarctl", *words, "--progress", "json"]
    done = subprocess.run(command, env=environment(home), cwd=home, capture_output=True, text=True)
    return done.returncode, [json.loads(line) for line in done.stderr.splitlines()], done.stdout


def on_a_terminal(home: Path, columns: int, *words: str, **more: str) -> tuple[int, list[str]]:
    """Run a command on a terminal so many columns wide; return its exit code and each state of each line."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(home)
        os.execvpe(
            sys.executable,
            [sys.executable, "-m", "avatarctl", *words],
            environment(home, TERM="xterm", COLUMNS=str(columns), **more),
        )
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    said = b""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        said += piece
    _, status = os.waitpid(child, 0)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.decode("utf-8", "replace"))
    return os.waitstatus_to_exitcode(status), [line for line in re.split(r"[\r\n]+", text) if line.strip()]


def test_json_lines_alone_with_every_stage_and_an_end(tmp_path: Path) -> None:
    code, rows, out = events(tmp_path, *SHORT, "-o", "x.mp4")
    assert code == 0 and out.strip() == "x.mp4"
    assert rows[-1] == {"event": "finished", "status": "done", "exit_code": 0}
    began = [row["stage"] for row in rows if row["event"] == "stage"]
    assert [stage for stage, before in zip(began, [None, *began], strict=False) if stage != before] == STAGES
    counted = [(row["window_steps"], row["of"]) for row in rows if row["event"] == "progress"]
    assert counted == [(1, 2), (2, 2)]
    assert {row["event"] for row in rows} <= {"stage", "progress", "note", "finished"}


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (["generate", "--preset", "puppet", "-a", "missing.wav", "-o", "x.mp4"], 4, "missing.wav"),
        (["generate", "--bogus"], 2, "--bogus"),
        (["fetch", "nothing"], 2, "nothing"),
    ],
)
def test_errors_are_events_too(words: list[str], code: int, part: str, tmp_path: Path) -> None:
    status, rows, _ = events(tmp_path, *words)
    assert status == code
    [error] = [row for row in rows if row["event"] == "error"]
    assert part in error["message"] and error["exit_code"] == code and error["hint"]
    assert rows[-1] == {"event": "finished", "status": "failed", "exit_code": code}


def test_what_libraries_write_becomes_notes(capfd: pytest.CaptureFixture[str]) -> None:
    console.json_lines(True)
    try:
        sys.stderr.write("a library\nwrote ")
        sys.stderr.write("this\n")
        console.note("ours, of\ntwo lines")
        sys.stderr.write("no end")
        console.finished(3)
    finally:
        console.json_lines(False)
    rows = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [row.get("text") for row in rows] == ["a library", "wrote this", "ours, of\ntwo lines", "no end", None]
    assert rows[-1] == {"event": "finished", "status": "failed", "exit_code": 3}


@pytest.mark.parametrize(("columns", "more"), [(80, {}), (60, {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"})])
def test_the_line_fits_and_tells_stage_share_and_passes(columns: int, more: dict[str, str], tmp_path: Path) -> None:
    code, lines = on_a_terminal(tmp_path, columns, *SHORT, "-o", "x.mp4", **more)
    assert code == 0
    assert max(map(len, lines)) <= columns
    text = "\n".join(lines)
    assert all(stage in text for stage in ("loading", "sampling", "decoding"))
    assert "50% pass 1/2" in text and "window step" not in text and "0/?" not in text
    assert lines[-1].strip() == "x.mp4" and "x.mp4: 0:01 of video in" in lines[-2]
    if more:
        assert text.isascii()


def test_no_line_moves_before_the_checks_are_done(tmp_path: Path) -> None:
    code, lines = on_a_terminal(tmp_path, 60, "generate", "--preset", "puppet", "-a", "missing.wav", "-o", "x.mp4")
    assert code == 4
    assert [line.split(":")[0] for line in lines] == ["error", "hint"]


def test_numbers_give_way_where_the_line_is_short() -> None:
    facts = {"left_s": 3725.0, "video_s": 61.0}
    assert progress._words(45, 192, facts, "window steps", 60) == "pass 45/192, 1:02:05 left, 1:01 of video"
    assert progress._words(45, 192, facts, "window steps", 25) == "pass 45/192, 1:02:05 left"
    assert progress._words(45, 192, facts, "window steps", 5) == "pass 45/192"
    speed = {"bytes": 10**9, "of_bytes": 25 * 10**9, "bytes_per_s": 45e6, "left_s": 60.0, "name": "a.pt"}
    assert progress._words(1000, 25000, speed, "MB") == "1.0 GB of 25.0 GB, 45.0 MB/s, 1:00 left, a.pt"


def test_messages_wrap_at_words_and_long_paths_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    path = "/" + "x" * 70
    problem = InputFileError(f"{path}: got no such file, expected a recording of the voice", "check the path")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    console.error(problem)
    text = terminal.getvalue()
    assert text.startswith("\x1b[1;31merror:\x1b[0m") and "\x1b[36mhint:\x1b[0m check the path\n" in text
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()
    assert any(f"{path}:" in line for line in plain)
    assert " ".join(plain).split() == f"error: {problem.message} hint: {problem.hint}".split()
    assert all(len(line) <= 40 for line in plain if path not in line)
    monkeypatch.setenv("NO_COLOR", "1")
    console.error(problem)
    assert "\x1b" not in terminal.getvalue()[len(text) :]


def test_lines_of_logs_come_seldom(capsys: pytest.CaptureFixture[str]) -> None:
    with showing("auto") as show:
        show(0, 0, stage="loading")
        for step in range(1, 5):
            show(step, 4, stage="sampling", left_s=4.0 - step)
    assert capsys.readouterr().err.splitlines() == [
        "sampling 25%, pass 1/4, 0:03 left",
        "sampling 100%, pass 4/4, 0:00 left",
    ]
