"""`avatarctl help` and `avatarctl version`: the pages that --help and --version show, as commands."""

from __future__ import annotations

from typing import Annotated

import typer

from avatarctl import __version__, console
from avatarctl.commands.options import AsJson
from avatarctl.commands.pages import page
from avatarctl.errors import UsageError


def help_(
    ctx: typer.Context,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="COMMAND", help="Command, such as generate or presets show.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the help page of a command: the same as COMMAND --help.

    Example: avatarctl help presets show
    """
    from difflib import get_close_matches

    assert ctx.parent is not None
    shown = ctx.parent
    for word in command or []:
        below = getattr(shown.command, "commands", {})
        if word not in below:
            close = get_close_matches(word, list(below), n=1)
            hint = (
                f"avatarctl help {' '.join([*shown.command_path.split()[1:], close[0]])}" if close else "avatarctl help"
            )
            raise UsageError(f"{word}: no such command of `{shown.command_path}`", hint)
        shown = type(ctx)(below[word], info_name=word, parent=shown)
    text = page(shown.command, shown)
    console.result("help", {"command": shown.command_path, "text": text}, text.rstrip("\n"), as_json)


def version(as_json: AsJson = False) -> None:
    """Show the version of the program.

    Example: avatarctl version
    """
    console.result("version", {"version": __version__}, f"avatarctl {__version__}", as_json)
