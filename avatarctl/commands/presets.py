"""Takes names of presets, gives their list, their resolved values with sources, what is wrong with them, or a copy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from avatarctl import console
from avatarctl.commands.options import EXIT_CODES, AsJson, Force, PresetName
from avatarctl.errors import UsageError

app = typer.Typer(help="List, show, check and copy presets.", epilog=EXIT_CODES, no_args_is_help=True)


@app.command("list", epilog=EXIT_CODES)
def list_(as_json: AsJson = False) -> None:
    """List every preset with what it is for and whose it is; yours stand before shipped ones of the same name."""
    from avatarctl import paths, presets

    rows: list[dict[str, Any]] = []
    for name, path in sorted(presets.names().items()):
        try:
            description = presets.load(name).description
        except UsageError:
            description = f"broken: see `avatarctl presets check {name}`"
        shipped = path.is_relative_to(paths.shipped_presets())
        rows.append(
            {"name": name, "description": description, "from": "shipped" if shipped else "yours", "path": str(path)}
        )
    text = console.table(("PRESET", "FROM", "FOR"), [(row["name"], row["from"], row["description"]) for row in rows])
    console.result("presets list", {"presets": rows}, text, as_json)


@app.command(epilog=EXIT_CODES)
def show(name: PresetName, as_json: AsJson = False) -> None:
    """Show what a preset comes to, with what each setting takes and where its value comes from.

    Example: AVATARCTL_STEPS=30 avatarctl presets show draft
    """
    from avatarctl import presets
    from avatarctl.settings import AllSettings, describe, make

    loaded = presets.load(name)
    values, sources = presets.resolve(AllSettings.model_fields, name, {})
    resolved = make(AllSettings, values, sources).model_dump(mode="json")
    rows = {
        field: {"value": resolved[field], "takes": takes, "source": sources.get(field, "default"), "does": does}
        for field, (takes, _, does) in describe(AllSettings).items()
    }
    data = {"name": name, "path": str(loaded.path), "description": loaded.description, "settings": rows}
    cells = [
        (field, row["source"], row["takes"], json.dumps(row["value"], ensure_ascii=False))
        for field, row in rows.items()
    ]
    console.result("presets show", data, console.table(("SETTING", "FROM", "TAKES", "VALUE"), cells), as_json)


@app.command(epilog=EXIT_CODES)
def check(
    preset: Annotated[list[str] | None, typer.Argument(help="Presets by name, or YAML files; all if none.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check presets: every mistake of every file at once, with its line. Exits with 2 if there is one.

    Example: avatarctl presets check my.yaml
    """
    from avatarctl import presets
    from avatarctl.settings import AllSettings, make

    names = preset or sorted(presets.names())
    mistakes = []
    for name in names:
        try:
            loaded = presets.load(name)
            make(AllSettings, loaded.values, loaded.places)
        except UsageError as error:
            mistakes.append(error.message)
    if mistakes:
        raise UsageError("\n".join(mistakes), "`avatarctl presets show square` tells what each setting takes")
    console.result("presets check", {"checked": names}, f"{len(names)} checked, nothing wrong", as_json)


@app.command(epilog=EXIT_CODES)
def copy(
    name: PresetName,
    target: Annotated[
        str | None, typer.Argument(help="Name of the copy, or a YAML file; the same name if none.")
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Copy a preset, comments and all, into the folder of your own presets, to change it there.

    Example: avatarctl presets copy portrait phone
    """
    from avatarctl import paths, presets

    source = presets.load(name).path
    wanted = target or source.stem
    by_path = wanted.endswith((".yaml", ".yml"))
    if not by_path and Path(wanted).name != wanted:
        raise UsageError(f"target: got '{wanted}', expected a name, or a file that ends in .yaml")
    copied = Path(wanted) if by_path else paths.preset_folders()[0] / f"{wanted}.yaml"
    if copied.exists() and not force:
        raise UsageError(f"target: {copied} is there already", "use --force to replace it, or give another name")
    content = source.read_bytes()
    copied.parent.mkdir(parents=True, exist_ok=True)
    copied.write_bytes(content)
    console.result("presets copy", {"name": wanted, "path": str(copied)}, str(copied), as_json)
