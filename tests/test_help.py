"""Tests of the help pages: panels, defaults that are the settings', nothing cut, short enough to be read."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from avatarctl import cli
from avatarctl.commands import pages
from avatarctl.settings.encode import EncodeSettings
from avatarctl.settings.names import flag_of
from avatarctl.settings.presets import load
from avatarctl.settings.render import AllSettings

ROOT = Path(__file__).parents[1]
PROGRAM = typer.main.get_command(cli.app)


def leaves(command: Any, words: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    below = getattr(command, "commands", None)
    if below is None:
        return {words: command}
    return {key: leaf for name, each in below.items() for key, leaf in leaves(each, (*words, name)).items()}


LEAVES = leaves(PROGRAM)


def shown(monkeypatch: pytest.MonkeyPatch, *words: str, columns: int = 100) -> str:
    """Return the help page of a command as main() writes it."""
    monkeypatch.setenv("COLUMNS", str(columns))
    ctx = typer.Context(PROGRAM, info_name="avatarctl")
    command: Any = PROGRAM
    everything = "--help-all" in words
    for word in (word for word in words if not word.startswith("-")):
        command = command.commands[word]
        ctx = typer.Context(command, info_name=word, parent=ctx)
    return pages.page(command, ctx, everything=everything)


def headings(page: str) -> list[str]:
    return re.findall(r"^([A-Z][\w ]*)$", page, re.M)


@pytest.mark.parametrize(
    ("words", "panels"),
    [
        (("generate",), ["Input", "Look", "Voice", "Machine", "Output"]),
        (("batch",), ["Input", "Look", "Voice", "Machine", "Output"]),
        (("train",), ["Input", "Training", "Machine", "Output"]),
        (("lora", "train"), ["Input", "Training", "Machine", "Output"]),
        (("data", "encode"), ["Input", "Samples", "Machine", "Output"]),
    ],
)
def test_options_are_in_panels_and_the_page_can_be_read(
    words: tuple[str, ...], panels: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = shown(monkeypatch, *words)
    assert headings(page) == panels
    assert len(page.splitlines()) <= 90


def test_commands_are_in_panels(monkeypatch: pytest.MonkeyPatch) -> None:
    page = shown(monkeypatch)
    assert headings(page) == ["Make videos", "Look after them", "Train", "Set up", "Developers", "Options"]
    developers = page[page.index("Developers") : page.index("Options")]
    assert "puppet" in developers and "demo" not in developers
    assert "Exit codes: 0 done" in page


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
@pytest.mark.parametrize("columns", [60, 80, 100])
def test_every_option_is_on_its_page_uncut(
    words: tuple[str, ...], columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = shown(monkeypatch, *words, "--help-all", columns=columns)
    for param in LEAVES[words].params:
        flag = param.opts[0] if param.param_type_name == "option" else param.metavar or param.name.upper()
        assert flag in page or f"--[no-]{flag[2:]}" in page, flag
    assert "<bool>" not in page and "…" not in re.sub(r"\w …|…\n", "", page.replace("30000/1001 …", ""))
    too_long = [line for line in page.splitlines() if len(line) > columns and " " in line.strip()]
    assert too_long == []
    assert page.rstrip().endswith("Exit codes: avatarctl --help") and page.count("Exit codes") == 1


def test_rare_options_are_on_the_whole_page_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    page, whole = shown(monkeypatch, "generate"), shown(monkeypatch, "generate", "--help-all")
    assert "--shift" not in page and "--shift" in whole and "--help-all" in page
    rare = [param for param in LEAVES[("generate",)].params if pages.panel_of(param).endswith(pages.RARE)]
    assert f"{len(rare)} more options, rarely needed: avatarctl generate --help-all" in page
    assert not any(f" {param.opts[0]}" in page for param in rare)


@pytest.mark.parametrize(("words", "preset"), [(("generate",), None), (("demo",), "puppet")])
def test_defaults_that_a_page_tells_are_those_of_the_settings(words: tuple[str, ...], preset: str | None) -> None:
    settings = AllSettings(**(load(preset).values if preset else {})).model_dump(mode="json")
    told = {opt: param for param in LEAVES[words].params for opt in param.opts}
    compared = 0
    for name, value in settings.items():
        param = told.get(flag_of(name, list(settings)))
        if param is not None and isinstance(param.show_default, str) and value is not None and name != "image":
            words_of = {True: ("yes", "with audio"), False: ("no",)} if isinstance(value, bool) else {}
            expected = words_of.get(value, ()) or (str(value), str(value).removesuffix(".0"))
            assert param.show_default.split(":")[0] in expected, name
            compared += 1
    assert compared >= (3 if preset else 18)


def test_defaults_of_encoding_are_those_of_the_settings() -> None:
    told = {param.name: param.show_default for param in LEAVES[("data", "encode")].params}
    settings = EncodeSettings().model_dump(mode="json")
    assert [size in told["size"] for size in settings["sizes"]] == [True, True, True]
    for name in ("window", "short", "store_dtype"):
        assert told[name] == str(settings[name])


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["-h"], "Make videos"),
        (["generate", "-h"], "Usage: avatarctl generate"),
        (["help"], "Make videos"),
        (["help", "presets", "show"], "Usage: avatarctl presets show"),
        (["-V"], "avatarctl 0."),
        (["version"], "avatarctl 0."),
        (["generate", "--help-all"], "--shift"),
    ],
)
def test_short_flags_and_commands(words: list[str], part: str) -> None:
    done = subprocess.run([sys.executable, "-m", "avatarctl", *words], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and done.stderr == "" and part in done.stdout
