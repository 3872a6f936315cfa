"""`avatarctl renders`: list, show, verify and remove render folders."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from avatarctl import console
from avatarctl.commands.generate import render_folder
from avatarctl.commands.options import AsJson, Force
from avatarctl.errors import BusyError, InputFileError

app = typer.Typer(help="List, show, verify and remove renders.", no_args_is_help=True)
Render = Annotated[Path, typer.Argument(help="Render folder, or the video it makes.")]


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the renders whose folders are there: interrupted, running, or finished and kept."""
    from avatarctl.render.known import known_renders

    rows = [
        {
            "path": str(known.path),
            "state": known.state,
            "output": known.output,
            "changed": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(known.changed)),
        }
        for known in known_renders()
    ]
    cells = [(row["state"], row["changed"], row["path"]) for row in rows]
    text = console.table(("STATE", "CHANGED", "RENDER"), cells) if rows else "no renders"
    console.result("renders list", {"renders": rows}, text, as_json)


@app.command()
def show(render: Render, as_json: AsJson = False) -> None:
    """Show what a render is made of and how far it is."""
    from avatarctl.render.folder import RenderFolder
    from avatarctl.render.known import look

    path = render_folder(render)
    manifest = RenderFolder(path).manifest()
    known = look(path)
    counts: dict[str, int] = {}
    for event in known.events:
        counts[event["event"]] = counts.get(event["event"], 0) + 1
    data = {"path": str(path), "state": known.state, "events": counts, "manifest": manifest}
    rows = [
        ("state", known.state),
        ("output", known.output),
        ("image", manifest["inputs"]["image"]["path"]),
        ("audio", manifest["inputs"]["audio"]["path"]),
        *((name, str(count)) for name, count in counts.items()),
    ]
    console.result("renders show", data, console.table(("RENDER", str(path)), rows), as_json)


@app.command()
def verify(render: Render, as_json: AsJson = False) -> None:
    """Read every file of a render and compare it with its checksum. Damaged ones are named; resuming makes them again."""
    from avatarctl.render.folder import RenderFolder

    folder = RenderFolder(render_folder(render))
    folder.manifest()
    sound, damaged = folder.verify()
    data: dict[str, Any] = {"path": str(folder.path), "whole": len(sound), "damaged": damaged}
    if damaged:
        raise InputFileError(
            f"{folder.path}: {len(damaged)} of {len(sound) + len(damaged)} files are damaged or missing: "
            + ", ".join(damaged[:12]),
            f"avatarctl resume {folder.path} computes them again",
        )
    console.result("renders verify", data, f"{len(sound)} files, all whole", as_json)


@app.command()
def remove(render: Render, force: Force = False, as_json: AsJson = False) -> None:
    """Remove a render folder (never the finished video). An unfinished one asks for --force."""
    from avatarctl.errors import UsageError
    from avatarctl.render.folder import RenderFolder
    from avatarctl.render.known import look

    path = render_folder(render)
    if not (force and RenderFolder(path).exists()):  # what is broken may still be thrown away
        RenderFolder(path).manifest()
    known = look(path)
    if known.state == "running":
        raise BusyError(f"{path}: a process is rendering in it", "stop that process first")
    if known.state != "finished" and not force:
        raise UsageError(f"{path}: the render is not finished", f"avatarctl resume {path}, or remove it with --force")
    RenderFolder(path).remove()
    console.result("renders remove", {"path": str(path)}, str(path), as_json)
