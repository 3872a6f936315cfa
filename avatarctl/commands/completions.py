"""Completion scripts of four shells, and what they print: written to a folder, and put right where Typer's are not."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from avatarctl import console

VARIABLE = "_AVATARCTL_COMPLETE"
FILES = {
    "bash": "avatarctl.bash",
    "zsh": "_avatarctl",
    "fish": "avatarctl.fish",
    "powershell": "avatarctl.ps1",
}
# zsh reads a script of its fpath when the first TAB is pressed: that TAB has to be answered, too.
ZSH_FIRST_TAB = 'if [ "$funcstack[1]" = "_avatarctl" ]; then\n  _avatarctl_completion "$@"\nfi\n'


def scripts() -> dict[str, str]:
    """Return file name -> completion script. zsh reads ``#compdef`` in the very first line only."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    made = {
        shell: get_completion_script(prog_name="avatarctl", complete_var=VARIABLE, shell=shell) + "\n"
        for shell in FILES
    }
    made["zsh"] += ZSH_FIRST_TAB
    made["bash"] = made["bash"].replace(
        "complete -o default ", "complete -o default -o filenames "
    )  # blanks are quoted
    return {name: made[shell] for shell, name in FILES.items()}


@contextmanager
def with_apostrophes(instruction: str) -> Iterator[None]:
    """Let what is printed for zsh keep its apostrophes: Typer doubles them inside single quotes, which drops them."""
    if instruction != "complete_zsh":
        yield
        return
    told = io.StringIO()
    try:
        with redirect_stdout(told):
            yield
    finally:
        console.result("completions", {}, told.getvalue().replace("''", "'\\''").rstrip("\n"), as_json=False)


def completions(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to write to.")] = Path("completions"),
) -> None:
    """Write the completion scripts for bash, zsh, fish and PowerShell (a step of a release)."""
    from avatarctl import durable

    with durable.guarded(folder, "free some space", "name another folder"):
        folder.mkdir(parents=True, exist_ok=True)
        for name, script in scripts().items():
            (folder / name).write_text(script, encoding="utf-8", newline="\n")
