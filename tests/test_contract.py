"""Tests with every command that the program has: what holds for all: quick help without torch, exit codes, --json."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from avatarctl import cli
from avatarctl.commands.pages import EXIT_CODES

ROOT = Path(__file__).parents[1]
HEAVY = (
    "torch",
    "numpy",
    "transformers",
    "diffusers",
    "accelerate",
    "peft",
    "pydub",
)  # Typer itself writes help with rich
QUICK_S = 0.5
# Steps of a release, which write files and have nothing to tell.
WITHOUT_RESULT = {("completions",)}
# Runs the real main(), then tells what was imported and the processor time of the whole process.
RUN = f"""
import sys, time
sys.argv = ["avatarctl", *sys.argv[1:]]
try:
    from avatarctl.cli import main
    main()
finally:
    found = [name for name in {HEAVY} if name in sys.modules]
    sys.stderr.write(f"\\nIMPORTED {{found}} IN {{time.process_time():.3f}}")
"""


def walk(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Return every command with the words that call it, groups too."""
    yield words, command
    for name, below in getattr(command, "commands", {}).items():
        yield from walk(below, (*words, name))


COMMANDS = dict(walk(typer.main.get_command(cli.app)))
LEAVES = {words: command for words, command in COMMANDS.items() if not hasattr(command, "commands")}
OPTIONS = {words: {opt for each in command.params for opt in each.opts} for words, command in COMMANDS.items()}


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a torch that can't be imported."""
    folder = tmp_path_factory.mktemp("broken")
    (folder / "torch.py").write_text("raise ImportError('broken on purpose')")
    return folder


def help_page(words: tuple[str, ...], search: Path) -> tuple[subprocess.CompletedProcess[str], str, float]:
    """Return the process, the heavy modules that it imported, and its processor time in seconds."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, *words, "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{search}{os.pathsep}{ROOT}", "COLUMNS": "120"},
    )
    _, _, told = done.stderr.rpartition("IMPORTED ")
    imported, _, seconds = told.partition(" IN ")
    return done, imported, float(seconds)


def test_the_walk_finds_commands_and_groups() -> None:
    assert () in COMMANDS and ("generate",) in LEAVES and ("presets", "show") in LEAVES
    assert ("presets",) in COMMANDS and ("presets",) not in LEAVES


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_is_quick_needs_no_torch_and_tells_the_exit_codes(words: tuple[str, ...], broken: Path) -> None:
    done, imported, seconds = help_page(words, broken)
    assert done.returncode == 0, done.stderr
    assert imported == "[]"
    told = EXIT_CODES if not words else "Exit codes: avatarctl --help"
    assert told in " ".join(done.stdout.split())
    for _ in range(4):  # other processes take time too: the quickest of some runs counts
        if seconds < QUICK_S:
            break
        seconds = min(seconds, help_page(words, broken)[2])
    assert seconds < QUICK_S


def test_help_page_would_catch_a_heavy_import(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import pydub_stand_in as pydub, sys; sys.modules['pydub'] = pydub")
    (tmp_path / "pydub_stand_in.py").write_text("")
    assert help_page((), tmp_path)[1] == "['pydub']"


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_a_command_says_what_it_does_and_what_its_options_do(words: tuple[str, ...]) -> None:
    command = LEAVES[words]
    assert (command.help or "").strip()
    silent = [option.name for option in command.params if not option.help]
    assert silent == []


@pytest.mark.parametrize("words", [words for words in LEAVES if words not in WITHOUT_RESULT], ids=" ".join)
def test_a_command_with_a_result_has_json(words: tuple[str, ...]) -> None:
    assert "--json" in OPTIONS[words]


@pytest.mark.parametrize("words", [words for words in LEAVES if words not in WITHOUT_RESULT], ids=" ".join)
def test_json_of_a_mistyped_option_is_one_object_and_exits_with_2(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["avatarctl", *words, "--no-such-option", "--json"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert end.value.code == found["exit_code"] == 2 and found["status"] == "failed"
    assert set(found) == {"avatarctl_result", "command", "status", "exit_code", "data", "errors"}
    assert "--no-such-option" in found["errors"][0]["message"] and found["errors"][0]["hint"]
    assert "no-such-option" in err and "Traceback" not in err
