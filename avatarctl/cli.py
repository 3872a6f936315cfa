"""Takes the command line, gives the commands: assembles them, and turns errors into message, hint and exit code."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from avatarctl import __version__, console
from avatarctl.errors import AvatarError

EXIT_CODES = (
    "Exit codes: 0 done, 1 a bug of ours, 2 usage, 3 some items failed, 4 unusable input file, 5 weights missing or "
    "damaged, 6 the render is busy, 7 inputs changed, 8 device or memory, 9 quality gate failed, 130/143 interrupted."
)

app = typer.Typer(
    name="avatarctl",
    help="Make a video of a person speaking or singing from one picture and a voice recording of any length.",
    epilog=EXIT_CODES,
    add_completion=True,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)


def _version(asked: bool) -> None:
    if asked:
        console.result("version", {}, f"avatarctl {__version__}", as_json=False)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Make a video of a person speaking or singing from one picture and a voice recording of any length."""


def main() -> None:
    """Run the command line. ``AVATARCTL_DEBUG=1`` shows tracebacks."""
    as_json = "--json" in sys.argv
    command = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    try:
        app()
    except AvatarError as problem:
        if os.environ.get("AVATARCTL_DEBUG") == "1":
            raise
        console.error(problem, command, as_json)
        sys.exit(problem.exit_code)
    except KeyboardInterrupt:
        console.note("interrupted")
        sys.exit(130)
    except Exception as bug:
        if os.environ.get("AVATARCTL_DEBUG") == "1":
            raise
        console.error(
            AvatarError(
                f"this is a bug of ours: {type(bug).__name__}: {bug}",
                "run it again with AVATARCTL_DEBUG=1 and report it",
            ),
            command,
            as_json,
        )
        sys.exit(1)
