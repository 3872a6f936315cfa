"""Help pages: what a command does, its options in panels with defaults, rare options under ``--help-all`` alone."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from avatarctl import console

# Panels, in the order in which a page shows them. An option whose panel ends in RARE is shown by --help-all alone.
INPUT, SAMPLES, LOOK, TRAINING, VOICE, MACHINE, OUTPUT = (
    "Input",
    "Samples",
    "Look",
    "Training",
    "Voice",
    "Machine",
    "Output",
)
RARE = ", rarely needed"
OPTIONS = "Options"
ORDER = (INPUT, OPTIONS, SAMPLES, LOOK, TRAINING, VOICE, MACHINE, OUTPUT)
# Panels of commands.
VIDEOS, CARE, TRAIN, SET_UP, DEVELOPERS = "Make videos", "Look after them", "Train", "Set up", "Developers"

HELP_ALL = "--help-all"
# The error of a command line that can't be read: Typer exports only the class below it.
UNREADABLE: Any = typer.BadParameter.__base__
EXIT_CODES = (
    "Exit codes: 0 done, 1 a bug of ours, 2 usage, 3 some items failed, 4 unusable input file, 5 weights missing or "
    "damaged, 6 the render is busy, 7 inputs changed, 8 device or memory, 9 quality gate failed, 130/143 interrupted."
)
WIDEST, NARROWEST = 100, 40  # columns of a page
NAMES = 32  # columns of the names at most; a longer one has a line of its own
KINDS = {"int": "N", "float": "NUMBER", "str": "TEXT", "path": "PATH", "bool": ""}


class Command(TyperCommand):
    """A command whose help page is in panels."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Show the whole help page when it is asked for, else read the arguments and remember them for error messages."""
        ctx.meta["avatarctl.words"] = list(args)
        if HELP_ALL in args and not ctx.resilient_parsing:
            typer.echo(console.plain(page(self, ctx, everything=True, bold=_bold())))
            raise typer.Exit
        try:
            return super().parse_args(ctx, args)
        except UNREADABLE as problem:
            problem.ctx = problem.ctx or ctx
            raise

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help page."""
        formatter.write(console.plain(page(self, ctx, bold=_bold())))

    def get_help_option_names(self, ctx: Any) -> list[str]:
        """Return the names of the help option, the short one first."""
        return sorted(super().get_help_option_names(ctx), key=len)


class Group(TyperGroup):
    """A group of commands whose help page is in panels."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help page."""
        formatter.write(console.plain(page(self, ctx, bold=_bold())))

    def get_help_option_names(self, ctx: Any) -> list[str]:
        """Return the names of the help option, the short one first."""
        return sorted(super().get_help_option_names(ctx), key=len)


def dress(app: typer.Typer) -> None:
    """Let every command and group of ``app`` have help pages of this kind; ``-h`` is their short flag."""
    app.info.cls = Group
    app.rich_markup_mode = None
    for command in app.registered_commands:
        command.cls = Command
        command.context_settings = {"help_option_names": ["-h", "--help"]}
    app.info.context_settings = {"help_option_names": ["-h", "--help"]}
    for group in app.registered_groups:
        group.cls = Group
        if group.typer_instance is not None:
            dress(group.typer_instance)


def page(command: Any, ctx: Any, everything: bool = False, bold: bool = False) -> str:
    """Return the help page of a command as text; ``everything``: with the options that are rarely needed."""
    width = max(NARROWEST, min(shutil.get_terminal_size().columns, WIDEST))
    usage = textwrap.wrap(_usage(command, ctx), width, subsequent_indent=" " * 7, break_on_hyphens=False)
    blocks = ["\n".join(usage)]
    blocks += [
        textwrap.fill(" ".join(paragraph.split()), width, break_long_words=False, break_on_hyphens=False)
        for paragraph in (command.help or "").split("\n\n")
    ]
    panels = _commands(command, ctx) if hasattr(command, "commands") else {}
    options, left_out = _options(command, ctx, everything)
    for title, rows in {**panels, **options}.items():
        heading = typer.style(title, bold=True) if bold else title
        blocks.append(f"{heading}\n" + "\n".join(_rows(rows, width)))
    if left_out:
        blocks.append(f"{left_out} more options, rarely needed: {ctx.command_path} {HELP_ALL}")
    root = ctx.parent is None
    last = EXIT_CODES if root else "Exit codes: avatarctl --help"
    blocks.append(textwrap.fill(last, width))
    return "\n\n".join(blocks) + "\n"


def panel_of(param: Any) -> str:
    """Return the title of the panel that an option or argument stands in, with RARE where it is rarely needed."""
    if param.rich_help_panel:
        return str(param.rich_help_panel)
    return INPUT if param.param_type_name == "argument" else OPTIONS


def names_of(param: Any, ctx: Any) -> str:
    """Return an option's names with what it accepts: ``-i, --image PICTURE``, ``--[no-]trim-silence``."""
    if param.param_type_name == "argument":
        return f"{param.metavar or param.name.upper()}{'...' if param.nargs != 1 else ''}"
    short = [opt for opt in param.opts if not opt.startswith("--")]
    long = [opt for opt in param.opts if opt.startswith("--")]
    if param.is_flag:
        opposite = [opt for opt in param.secondary_opts if opt != f"--no-{long[0][2:]}"]
        if param.secondary_opts and not opposite:
            long = [f"--[no-]{long[0][2:]}"]
        return " / ".join([", ".join([*short, *long]), *opposite])
    return f"{', '.join([*short, *long])} {kind_of(param, ctx)}"


def kind_of(param: Any, ctx: Any) -> str:
    """Return what an option accepts, in a word: its metavar, its choices, or N, NUMBER, TEXT, PATH."""
    if param.metavar:
        return str(param.metavar)
    kind = str(param.display_type(ctx)).strip("<>").removeprefix("list[").removesuffix("]").removesuffix(" range")
    return KINDS.get(kind, kind)


def _bold() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def _usage(command: Any, ctx: Any) -> str:
    words = [ctx.command_path]
    if hasattr(command, "commands"):
        return f"Usage: {' '.join(words)} COMMAND [OPTIONS]"
    for param in command.get_params(ctx):
        if param.param_type_name == "argument" and not param.hidden:
            name = f"{param.metavar or param.name.upper()}{' ...' if param.nargs != 1 else ''}"
            words.append(name if param.required else f"[{name}]")
    for param in command.get_params(ctx):
        if param.param_type_name == "option" and param.required:
            words.append(f"{max(param.opts, key=len)} {kind_of(param, ctx)}")
    return f"Usage: {' '.join(words)} [OPTIONS]"


def _options(command: Any, ctx: Any, everything: bool) -> tuple[dict[str, list[tuple[str, str]]], int]:
    """Return panel -> rows of names and help in the order of the page, and how many options are left out."""
    found: dict[str, list[tuple[str, str]]] = {}
    left_out = 0
    for param in command.get_params(ctx):
        panel = panel_of(param)
        if getattr(param, "hidden", False) or param.name == "help":
            continue
        if panel.endswith(RARE) and not everything:
            left_out += 1
            continue
        names = names_of(param, ctx)
        if names.startswith("--"):
            names = "    " + names
        found.setdefault(panel.removesuffix(RARE), []).append((names, _help(param, ctx)))
    last = max((title for title in found if title != OPTIONS), key=ORDER.index, default=OPTIONS)
    found.setdefault(last, []).append(("-h, --help", "Show this page."))
    if left_out or everything:
        found[last].append((f"    {HELP_ALL}", "Show every option."))
    return dict(sorted(found.items(), key=lambda item: ORDER.index(item[0]))), left_out


def _help(param: Any, ctx: Any) -> str:
    notes = []
    if param.param_type_name == "argument" and "|" in (kind := kind_of(param, ctx)):
        notes.append(kind)
    if isinstance(param.show_default, str):
        notes.append(f"default: {param.show_default}")
    elif param.default not in (None, False, (), []) and param.show_default:
        notes.append(f"default: {param.default}")
    if param.required:
        notes.append("required")
    return f"{param.help or ''} [{'; '.join(notes)}]" if notes else param.help or ""


def _commands(group: Any, ctx: Any) -> dict[str, list[tuple[str, str]]]:
    """Return panel -> rows of command and what it does in a line."""
    found: dict[str, list[tuple[str, str]]] = {}
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        if not command.hidden:
            first = " ".join((command.help or "").split("\n\n")[0].split())
            sentence = first.split(". ")[0].rstrip(".") + "."
            found.setdefault(command.rich_help_panel or "Commands", []).append((name, sentence))
    return found


def _rows(rows: Sequence[tuple[str, str]], width: int) -> Iterator[str]:
    first = min(max(len(names) for names, _ in rows), NAMES) + 4
    for names, text in rows:
        lines = textwrap.wrap(text, width - first, break_long_words=False, break_on_hyphens=False) or [""]
        if len(names) + 4 > first:
            yield f"  {names}"
            names = ""
        yield f"  {names.ljust(first - 2)}{lines[0]}".rstrip()
        yield from (" " * first + line for line in lines[1:])
