"""Tests with the README: its commands, flags, help pages, links and presets are those of the program."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from avatarctl import cli
from avatarctl.settings import presets

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROGRAM = typer.main.get_command(cli.app)
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.S)
HELP = [block for kind, block in BLOCKS if kind == "console" and " --help\n" in block]


def leaves(command: object, words: tuple[str, ...] = ()) -> dict[tuple[str, ...], object]:
    below = getattr(command, "commands", None)
    if below is None:
        return {words: command}
    return {key: leaf for name, each in below.items() for key, leaf in leaves(each, (*words, name)).items()}


LEAVES = {words: leaf for words, leaf in leaves(PROGRAM).items() if not getattr(leaf, "hidden", False)}


def command_lines() -> list[list[str]]:
    """Return every command line of ours in blocks and in code between backticks, as words."""
    text = "\n".join(block.replace("\\\n", " ") for kind, block in BLOCKS if kind in ("sh", "console"))
    text += "\n" + "\n".join(re.findall(r"`(avatarctl [^`]*)`", re.sub(r"```.*?```", "", README, flags=re.S)))
    found = []
    for line in text.splitlines():
        for part in re.split(r"&&|#", line.removeprefix("$ ")):
            if at := re.match(r"\s*(?:accelerate launch .* -m )?(avatarctl .*)", part):
                found.append(shlex.split(at[1].replace("\\|", "|")))
    return found


def test_the_table_names_every_command() -> None:
    rows = re.findall(r"^\| `avatarctl ([^`]*)` \|", README, re.M)
    named = set()
    for row in rows:
        words = row.replace("\\|", "|").split()
        last = [word for word in words if not word.startswith("[")]
        named |= {(*last[:-1], each) for each in last[-1].split("|")}
    assert named == {words for words in LEAVES if words != ("completions",)}


@pytest.mark.parametrize("line", command_lines(), ids=" ".join)
def test_commands_and_flags_exist(line: list[str]) -> None:
    words: tuple[str, ...] = ()
    rest = line[1:]
    while rest and any(leaf[: len(words) + 1] == (*words, rest[0].split("|")[0]) for leaf in LEAVES):
        words, rest = (*words, rest[0].split("|")[0]), rest[1:]
    flags = [word.split("=")[0] for word in rest if re.match(r"--?[a-z]", word)]
    if line[1:] and line[1].isupper():
        return  # `avatarctl COMMAND --help`
    below = [leaf for leaf in LEAVES if leaf[: len(words)] == words]
    assert below, f"{' '.join(line)}: no such command"
    for flag in flags:
        assert flag in ("--help", "--install-completion") or any(
            flag in option.opts + option.secondary_opts for leaf in below for option in LEAVES[leaf].params
        ), flag


def test_help_pages_are_the_programs() -> None:
    assert HELP, "the README shows one at least"
    for block in HELP:
        first, _, shown = block.partition("\n")
        told = subprocess.run(
            [sys.executable, "-m", *shlex.split(first.removeprefix("$ "))],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
            env={**os.environ, "TERMINAL_WIDTH": "110", "COLUMNS": "110"},
        )
        lines = [line.rstrip() for line in told.stdout.strip("\n").splitlines()]
        assert [line.rstrip() for line in shown.strip("\n").splitlines()] == [line for line in lines if line], first


def test_presets_that_are_named_exist() -> None:
    known = {name for kind in presets.KINDS for name in presets.names(kind)}
    named = set(re.findall(r"--preset ([a-z][\w.-]*)", README))
    assert named <= known, named - known


def test_links_lead_somewhere() -> None:
    titles = {
        re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", README, re.M)
    }
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if target.startswith("#"):
            assert target[1:] in titles, target
        elif not target.startswith("http"):
            assert (ROOT / target).exists(), target
