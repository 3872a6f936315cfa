"""Tests of the completions: the committed scripts are the program's, and complete in the shells that are installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from avatarctl.commands import complete, completions

ROOT = Path(__file__).parents[1]
# What zsh's completion system is to a script: the words so far, and functions that offer and register.
ZSH = """
compdef() { : }
_arguments() { print -r -- "$1" }
_files() { print -r -- FILES }
source {script}
words=({words}); CURRENT=$#words
_avatarctl_completion
"""
BASH = """
source {script}
COMP_WORDS=({words}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
_avatarctl_completion avatarctl
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with files to complete, and the program on the search path of shells."""
    program = tmp_path / "bin" / "avatarctl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m avatarctl "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("AVATARCTL_HOME", str(tmp_path / "home"))
    work = tmp_path / "work"
    (work / "pics").mkdir(parents=True)
    for name in ("me.jpg", "it's me.PNG", "talk.mp3", "film.mov", "notes.txt", "pics/you.webp", "pics/list.csv"):
        (work / name).touch()
    monkeypatch.chdir(work)
    return work


def in_shell(shell: str, template: str, *words: str) -> str:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    script = ROOT / "completions" / completions.FILES[shell]
    quoted = " ".join(f"'{word}'" for word in words)
    code = template.replace("{script}", str(script)).replace("{words}", quoted).replace("{{", "{").replace("}}", "}")
    flags = ["-f"] if shell == "zsh" else []
    done = subprocess.run([shell, *flags, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", completions.FILES.values())
def test_committed_scripts_are_what_the_program_makes(name: str) -> None:
    made = completions.scripts()[name]
    assert made == (ROOT / "completions" / name).read_text(), "run `avatarctl completions`"


def test_zsh_reads_the_first_line_only() -> None:
    assert completions.scripts()["_avatarctl"].startswith("#compdef avatarctl\n")


def test_bash_completes_presets_and_files_by_their_endings(desk: Path) -> None:
    assert in_shell("bash", BASH, "avatarctl", "presets", "show", "po").split() == ["portrait"]
    assert in_shell("bash", BASH, "avatarctl", "generate", "-i", "").splitlines() == ["it's me.PNG", "me.jpg", "pics/"]
    assert in_shell("bash", BASH, "avatarctl", "generate", "-a", "").split() == ["film.mov", "pics/", "talk.mp3"]


def test_zsh_keeps_apostrophes_and_tells_what_presets_are_for(desk: Path) -> None:
    told = in_shell("zsh", ZSH, "avatarctl", "presets", "show", "po")
    assert told == '*: :(("portrait":"480x832, upright"))\n'
    assert "it's me.PNG" in in_shell("zsh", ZSH, "avatarctl", "generate", "-i", "it")


def test_zsh_answers_the_tab_that_loads_the_script(desk: Path) -> None:
    code = ZSH.replace("source {script}", "fpath=({folder}); autoload -Uz _avatarctl").replace(
        "\n_avatarctl_completion\n", "\n_avatarctl\n"
    )
    told = in_shell("zsh", code.replace("{folder}", str(ROOT / "completions")), "avatarctl", "doc")
    assert '"doctor":' in told


def test_fish_completes(desk: Path) -> None:
    code = "source {script}; complete -C 'avatarctl presets show po'; complete -C 'avatarctl generate -i pi'"
    assert in_shell("fish", code).splitlines() == ["portrait\t480x832, upright", "pics/", "pics/you.webp"]


def test_a_single_folder_is_offered_with_what_stands_in_it(desk: Path) -> None:
    assert complete.files("pi", complete.PICTURES) == ["pics/", "pics/you.webp"]
    assert complete.files("pics/", complete.PICTURES) == ["pics/you.webp"]
    assert complete.files("nowhere/", complete.PICTURES) == []


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs espeak-ng")
def test_voices_are_offered_and_no_files(desk: Path) -> None:
    told = dict(complete.voices("en-us"))
    assert "en-us" in told and "en-us+f3" in told and "me.jpg" not in told
    assert complete.voices("klingon") == []


def test_presets_of_the_kind_that_a_command_reads() -> None:
    assert ("tiny" in dict(complete.train_presets("")), "tiny" in dict(complete.render_presets(""))) == (True, False)
    assert list(dict(complete.lora_presets(""))) == [
        *("distill-1.3b", "distill-person", "distill-puppet", "person-1.3b", "puppet-look")
    ]
