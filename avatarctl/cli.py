"""Assemble the commands, and turn errors into a message, a hint and an exit code."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from avatarctl import __version__, console
from avatarctl.commands import (
    batch,
    completions,
    data,
    demo,
    doctor,
    fetch,
    generate,
    lora,
    presets,
    puppet,
    renders,
    train,
)
from avatarctl.commands.options import EXIT_CODES
from avatarctl.errors import AvatarError, UsageError
from avatarctl.networks import lean

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


app.command(epilog=EXIT_CODES)(generate.generate)
app.command(epilog=EXIT_CODES)(generate.resume)
app.command(epilog=EXIT_CODES)(batch.batch)
app.command(epilog=EXIT_CODES)(demo.demo)
app.add_typer(renders.app, name="renders")
app.add_typer(data.app, name="data")
app.command(epilog=EXIT_CODES)(train.train)
lora.app.command("train", epilog=EXIT_CODES)(train.lora_train)
app.add_typer(lora.app, name="lora")
app.command(epilog=EXIT_CODES)(doctor.doctor)
app.command(epilog=EXIT_CODES)(fetch.fetch)
app.add_typer(puppet.app, name="puppet")
app.add_typer(presets.app, name="presets")
app.command(hidden=True, epilog=EXIT_CODES)(completions.completions)


def main() -> None:
    """Run the command line. ``AVATARCTL_DEBUG=1`` shows tracebacks."""
    lean.allow()
    as_json = "--json" in sys.argv
    command = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    try:
        app(prog_name="avatarctl")  # also under `python -m`, whose name no completion script could hold
    except SystemExit as end:
        if end.code == UsageError.exit_code and as_json:  # Typer said on stderr what is wrong
            console.error_object(UsageError("the command line can't be read", "see --help"), command)
        if end.code == 130:  # Typer made it of a KeyboardInterrupt
            console.note("interrupted; the same command goes on")
        raise
    except AvatarError as problem:
        console.trace()
        console.error(problem, command, as_json)
        sys.exit(problem.exit_code)
    except KeyboardInterrupt:
        console.note("interrupted")
        sys.exit(130)
    except Exception as bug:
        console.trace()
        console.error(
            AvatarError(
                f"this is a bug of ours: {type(bug).__name__}: {bug}",
                "run it again with AVATARCTL_DEBUG=1 and report it",
            ),
            command,
            as_json,
        )
        sys.exit(1)
