"""`avatarctl presets`: list, show, check and copy presets, and write their JSON Schema."""

from __future__ import annotations

import json
import shlex
import textwrap
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from avatarctl import console
from avatarctl.commands import complete
from avatarctl.commands.options import AsJson, Force
from avatarctl.commands.settings_text import COLUMNS, first_line, settings_table, whole
from avatarctl.errors import UsageError

app = typer.Typer(help="List, show, check and copy presets.", no_args_is_help=True)


def _names(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    from avatarctl.settings import presets

    return complete.presets(incomplete, *([ctx.params["kind"]] if ctx.params.get("kind") else presets.KINDS))


def _settings(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    from avatarctl.settings import presets
    from avatarctl.settings.check import describe

    kind = ctx.params.get("kind") or presets.kind_of(ctx.params.get("name") or "")
    told = describe(presets.settings_class(kind))
    return [(name, first_line(does)) for name, (_, _, does) in told.items() if name.startswith(incomplete)]


Kind = Annotated[
    Literal["render", "train", "lora", "data", "prepare"] | None,
    typer.Option("--kind", help="What the preset is for; else told from its name or folder."),
]
Name = Annotated[str, typer.Argument(metavar="NAME", autocompletion=_names, help="Preset by name, or a YAML file.")]


@app.command("list")
def list_(kind: Kind = None, as_json: AsJson = False) -> None:
    """List every preset with what it is for and whose it is; yours stand before shipped ones of the same name.

    Example: avatarctl presets list --kind train
    """
    from avatarctl.settings import presets

    rows: list[dict[str, Any]] = []
    for each in [kind] if kind else presets.KINDS:
        for name, path in sorted(presets.names(each).items()):
            try:
                description = presets.load(name, each).description
            except UsageError:
                description = f"broken: see `avatarctl presets check {name} --kind {each}`"
            instead = presets.shadowed(path, each)
            rows.append(
                {
                    "name": name,
                    "kind": each,
                    "description": description,
                    "from": "shipped" if presets.is_shipped(path) else "yours",
                    "shadows": str(instead) if instead else None,
                    "path": str(path),
                }
            )
    cells = [
        (
            row["name"],
            row["kind"],
            row["from"] + (", not the shipped one" if row["shadows"] else ""),
            row["description"],
        )
        for row in rows
    ]
    console.result("presets list", {"presets": rows}, console.table(("PRESET", "KIND", "FROM", "FOR"), cells), as_json)


@app.command()
def show(
    name: Name,
    setting: Annotated[
        str | None,
        typer.Argument(metavar="SETTING", autocompletion=_settings, help="Tell everything about this setting alone."),
    ] = None,
    kind: Kind = None,
    long: Annotated[bool, typer.Option("--long", help="Tell everything about every setting.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Show the file as it is, with its comments.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show every setting of a preset: its value, where the value comes from, what it does.

    Example: avatarctl presets show draft

    Example: avatarctl presets show draft guidance
    """
    from avatarctl.settings import presets
    from avatarctl.settings.check import did_you_mean

    kind = kind or _kind_of(name)
    if raw:
        path = presets.find(name, kind)
        presets.read(path)  # a broken file is an error, not a result
        text = path.read_text(encoding="utf-8")
        content = {"name": name, "kind": kind, "path": str(path), "text": text}
        console.result("presets show", content, text.rstrip("\n"), as_json)
        return
    loaded = presets.load(name, kind)
    rows = presets.explain(kind, name, {})
    if setting is not None:
        asked = setting.replace("-", "_")
        if asked not in rows:
            close = did_you_mean(asked, list(rows))
            raise UsageError(
                f"{setting}: no such setting of preset {name}{close}",
                f"avatarctl presets show {shlex.quote(name)} {close.removeprefix(', did you mean ').rstrip('?')}".rstrip(),
            )
        rows = {asked: rows[asked]}
    data = {"name": name, "kind": kind, "path": str(loaded.path), "description": loaded.description, "settings": rows}
    if setting is not None or long:
        text = "\n\n".join(whole(field, row, kind) for field, row in rows.items())
    else:
        of = "" if kind == "render" else f" ({kind})"
        title = textwrap.fill(f"Preset {name}{of}: {loaded.description}", COLUMNS)
        more = f"More about one: avatarctl presets show {shlex.quote(name)} SETTING; about all: --long"
        text = f"{title}\n{loaded.path}\n\n{settings_table(rows)}\n\n{more}"
    console.result("presets show", data, text, as_json)


@app.command()
def check(
    preset: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", autocompletion=_names, help="Presets by name, or YAML files; all if none."),
    ] = None,
    kind: Kind = None,
    as_json: AsJson = False,
) -> None:
    """Check presets: every mistake of every file at once, with its line. Exits with 2 if there is one.

    Example: avatarctl presets check my.yaml
    """
    from avatarctl.settings import presets

    wanted: list[tuple[str, str]]
    if preset:
        wanted = [(name, kind or _kind_of(name)) for name in preset]
    else:
        wanted = [(name, each) for each in ([kind] if kind else presets.KINDS) for name in sorted(presets.names(each))]
    for name, each in wanted:
        presets.find(name, each)  # a name that is mistyped is told with the nearest one
    mistakes = {(name, each): presets.mistakes(name, each) for name, each in wanted}
    if lines := dict.fromkeys(line for found in mistakes.values() for line in found):
        wrong = next(each for (_, each), found in mistakes.items() if found)
        shipped = min(name for name, path in presets.names(wrong).items() if presets.is_shipped(path))
        raise UsageError("\n".join(lines), f"`avatarctl presets show {shipped}` tells what each setting takes")
    data = {"checked": [name for name, _ in wanted], "kinds": [each for _, each in wanted]}
    console.result("presets check", data, f"{len(wanted)} checked, nothing wrong", as_json)


@app.command()
def copy(
    name: Name,
    target: Annotated[
        str | None,
        typer.Argument(metavar="TARGET", help="Name of the copy, or a YAML file; the same name if none."),
    ] = None,
    kind: Kind = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Copy a preset, comments and all, into the folder of your own presets, to change it there.

    Also the files for `accelerate launch --config_file` (one-gpu, several-gpus, fsdp2, deepspeed-zero2), into this folder.

    Example: avatarctl presets copy portrait phone
    """
    from avatarctl import durable, ownership, paths
    from avatarctl.settings import presets

    launcher = presets.launchers().get(name) if kind is None else None
    of_kind = kind or ("launcher" if launcher else _kind_of(name))
    source = launcher or presets.load(name, of_kind).path
    wanted = source.stem if target is None else target
    if launcher and not wanted.endswith(presets.SUFFIXES):
        wanted += presets.SUFFIXES[0]
    by_path = wanted.endswith(presets.SUFFIXES)
    if not by_path and (not wanted or Path(wanted).name != wanted or wanted.startswith(".")):
        raise UsageError(
            f"target: got '{wanted}', expected a name, or a file that ends in .yaml", f"such as my-{source.stem}"
        )
    copied = Path(wanted) if by_path else paths.preset_folders(of_kind)[0] / f"{wanted}.yaml"
    ownership.check_no_input(copied, "avatarctl presets copy NAME", [("the preset to copy", source)])
    if copied.is_dir():
        raise UsageError(
            f"target: {copied} is a folder, expected a file", f"such as {shlex.quote(str(copied / 'mine.yaml'))}"
        )
    if copied.exists() and not force:
        raise UsageError(f"target: {copied} is there already", "use --force to replace it, or give another name")
    if copied.parent.exists() and not copied.parent.is_dir():
        raise UsageError(f"target: got {copied.parent}, which is a file, expected a folder", f"such as ./{copied.name}")
    content = source.read_text(encoding="utf-8") if launcher else presets.moved(source, copied.parent)
    with durable.guarded(copied, "free some space", "name a file in a folder of yours, such as ./mine.yaml"):
        durable.replace(durable.through(copied), content.encode())
    data = {"name": wanted, "kind": of_kind, "path": str(copied)}
    console.result("presets copy", data, str(copied), as_json)


@app.command()
def schema(kind: Kind = None, as_json: AsJson = False) -> None:
    """Write the JSON Schema of presets to stdout, for editors that complete, explain and check YAML with it.

    Example: avatarctl presets schema > preset.schema.json
    """
    from avatarctl.settings.schema import preset_schema

    made = preset_schema(kind or "render")
    data = {"kind": kind or "render", "schema": made}
    console.result("presets schema", data, json.dumps(made, indent=1, ensure_ascii=False), as_json)


def _kind_of(name: str) -> Literal["render", "train", "lora", "data", "prepare"]:
    from avatarctl.settings import presets

    kind: Any = presets.kind_of(name)
    return kind
