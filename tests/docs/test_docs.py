"""Tests with README and docs: commands, flags, links and presets exist, examples run, every command is described."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
from pages import ALL, PAGES, ROOT

from avatarctl import cli
from avatarctl.settings import presets

README = PAGES[0]
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}
PROGRAM = typer.main.get_command(cli.app)


def leaves(command: object, words: tuple[str, ...] = ()) -> dict[tuple[str, ...], object]:
    below = getattr(command, "commands", None)
    if below is None:
        return {words: command}
    return {key: leaf for name, each in below.items() for key, leaf in leaves(each, (*words, name)).items()}


LEAVES = {words: leaf for words, leaf in leaves(PROGRAM).items() if not getattr(leaf, "hidden", False)}


def command_lines() -> list[list[str]]:
    """Return every command line of ours in blocks and in code between backticks, as words."""
    text = "\n".join(line for block in ALL if block.language in ("sh", "console") for line in block.lines())
    for page in PAGES:
        text += "\n" + "\n".join(re.findall(r"`(avatarctl [^`]*)`", re.sub(r"```.*?```", "", TEXTS[page], flags=re.S)))
    found = []
    for line in text.splitlines():
        for part in re.split(r"&&|#|>", line.removeprefix("$ ")):
            if at := re.search(r"(?:^\s*|\$\()(?:accelerate launch .* -m )?(avatarctl .*)", part):
                words = shlex.split(at[1].replace("\\|", "|").rstrip(")"))
                if words not in found:
                    found.append(words)
    return found


def test_the_readme_is_short_and_names_every_page() -> None:
    assert len(TEXTS[README].splitlines()) <= 150
    assert all(f"docs/{page.name}" in TEXTS[README] for page in PAGES[1:])
    assert (ROOT / "docs" / "demo.webp").stat().st_size < 1_500_000


def test_the_table_names_every_command() -> None:
    rows = re.findall(r"^\| `avatarctl ([^`]*)` \|", TEXTS[README], re.M)
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_presets_that_are_named_exist(page: Path) -> None:
    known = {name for kind in presets.KINDS for name in presets.names(kind)}
    named = set(re.findall(r"--preset ([a-z][\w.-]*)", TEXTS[page])) - {"mine"}
    assert named <= known, named - known


def titles(page: Path) -> set[str]:
    found = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", TEXTS[page], flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in found}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", TEXTS[page]):
        if target.startswith("http"):
            continue
        file, _, title = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), target
        assert not title or title in titles(there), target
