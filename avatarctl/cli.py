"""The command line: assemble the commands, run one, and turn errors into message, hint and exit code."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import typer

from avatarctl import __version__, console, interrupts, launcher, streams
from avatarctl.commands import (
    about,
    batch,
    completions,
    data,
    demo,
    doctor,
    evaluate,
    export,
    fetch,
    generate,
    lora,
    mistyped,
    presets,
    puppet,
    renders,
    serve,
    train,
)
from avatarctl.commands.pages import CARE, DEVELOPERS, SET_UP, TRAIN, UNREADABLE, VIDEOS, dress
from avatarctl.errors import AvatarError, Ended, InputFileError
from avatarctl.networks import devices, lean
from avatarctl.paths import HERE_IS_GONE, here_is_gone

SHOWN = 80  # characters of a name that is too long

# They write nothing before the render watches for signals itself: until then Ctrl-C ends them at once.
RENDERING = ("generate", "resume", "demo")

app = typer.Typer(
    name="avatarctl",
    help="Make a video of a person speaking or singing from one picture and a voice recording of any length.",
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
        bool, typer.Option("--version", "-V", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Make a video of a person speaking or singing from one picture and a voice recording of any length."""


app.command(rich_help_panel=VIDEOS)(generate.generate)
app.command(rich_help_panel=VIDEOS)(batch.batch)
app.command(rich_help_panel=VIDEOS)(demo.demo)
app.command(rich_help_panel=VIDEOS)(serve.serve)
app.command(rich_help_panel=CARE)(generate.resume)
app.command(rich_help_panel=CARE)(evaluate.evaluate)
app.add_typer(renders.app, name="renders", rich_help_panel=CARE)
app.add_typer(data.app, name="data", rich_help_panel=TRAIN)
app.command(rich_help_panel=TRAIN)(train.train)
app.command(rich_help_panel=TRAIN)(export.export)
lora.app.command("train")(train.lora_train)
lora.app.command("export")(export.lora_export)
app.add_typer(lora.app, name="lora", rich_help_panel=TRAIN)
app.command(rich_help_panel=SET_UP)(fetch.fetch)
app.command(rich_help_panel=SET_UP)(doctor.doctor)
app.add_typer(presets.app, name="presets", rich_help_panel=SET_UP)
app.command("help", rich_help_panel=SET_UP)(about.help_)
app.command(rich_help_panel=SET_UP)(about.version)
app.add_typer(puppet.app, name="puppet", rich_help_panel=DEVELOPERS)
app.command(hidden=True)(completions.completions)
dress(app)


def main() -> None:
    """Run the command line. ``AVATARCTL_DEBUG=1`` shows tracebacks."""
    lean.allow()
    devices.let_segments_grow()
    streams.outlive_readers()
    console.write_any_text()
    words = sys.argv[1:]
    console.json_lines(_progress(words) == "json")
    code = _run(words)
    if not launcher.follows():
        console.finished(code)
    console.json_lines(False)
    if code:
        sys.exit(code)


def _progress(words: Sequence[str]) -> str:
    """Return what --progress asks for, the last one where there are several, before the command line is parsed."""
    asked = ""
    for before, word in pairwise(["", *words]):
        if before == "--progress" or word.startswith("--progress="):
            asked = word.removeprefix("--progress=")
    return asked


def _run(words: Sequence[str]) -> int:
    """Run a command line to its end; return the exit code, after what went wrong was told."""
    as_json = "--json" in words
    command = next((word for word in words if not word.startswith("-")), "")
    if command not in RENDERING:
        interrupts.raise_again()
    try:
        # The name is the same under `python -m`, whose own no completion script could hold.
        with completions.with_apostrophes(os.environ.get(completions.VARIABLE, "")):
            code = app(prog_name="avatarctl", standalone_mode=False)
    except UNREADABLE as problem:
        if type(problem).__name__ == "NoArgsIsHelpError":  # the message is the help page
            console.note(problem.format_message())
            return int(problem.exit_code)
        found = mistyped.explain(problem, words)
        console.error(found, command, as_json)
        return found.exit_code
    except Ended as end:
        return end.exit_code
    except AvatarError as problem:
        console.trace()
        console.error(problem, command, as_json)
        return problem.exit_code
    except KeyboardInterrupt:
        console.note("interrupted")
        return 130
    except Exception as bug:
        console.trace()
        told = _in_words(bug)
        console.error(told, command, as_json)
        return told.exit_code
    if code == 130:  # Typer made it of a KeyboardInterrupt
        console.note("interrupted; run the same command again to continue")
    return code if isinstance(code, int) else 0


def _in_words(bug: Exception) -> AvatarError:
    """Return the error that a user is told: a name that the system can't hold is theirs, anything else a bug."""
    if isinstance(bug, OSError) and bug.errno == errno.ENAMETOOLONG:
        name = os.fsdecode(bug.filename) if isinstance(bug.filename, str | bytes) else "a file"
        shown = name if len(name) <= SHOWN else f"{name[:SHOWN]}…"
        size = len(os.fsencode(name))
        return InputFileError(
            f"{shown}: got a name of {size} bytes, expected a path that this system can hold (255 bytes a name)",
            "choose a shorter name or folder",
        )
    if isinstance(bug, FileNotFoundError) and here_is_gone():
        return InputFileError(*HERE_IS_GONE)
    return AvatarError(
        f"this is a bug of ours: {type(bug).__name__}: {bug}", "run it again with AVATARCTL_DEBUG=1 and report it"
    )
