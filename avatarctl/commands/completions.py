"""Write the completion scripts of four shells into a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

FILES = {
    "bash": "avatarctl.bash",
    "zsh": "_avatarctl",
    "fish": "avatarctl.fish",
    "powershell": "avatarctl.ps1",
}


def scripts() -> dict[str, str]:
    """Return file name -> completion script. zsh reads ``#compdef`` in the very first line only."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    return {
        name: get_completion_script(prog_name="avatarctl", complete_var="_AVATARCTL_COMPLETE", shell=shell) + "\n"
        for shell, name in FILES.items()
    }


def completions(folder: Annotated[Path, typer.Argument(help="Folder to write to.")] = Path("completions")) -> None:
    """Write the completion scripts for bash, zsh, fish and PowerShell (a step of a release)."""
    from avatarctl import durable

    with durable.guarded(folder, "free some space", "name another folder"):
        folder.mkdir(parents=True, exist_ok=True)
        for name, script in scripts().items():
            (folder / name).write_text(script, encoding="utf-8", newline="\n")
