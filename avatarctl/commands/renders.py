"""`avatarctl renders`: list, show, verify and remove render folders."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from avatarctl import console
from avatarctl.commands.generate import render_folder
from avatarctl.commands.options import AsJson, Force
from avatarctl.console import size
from avatarctl.errors import BusyError, InputFileError, UsageError

app = typer.Typer(help="List, show, verify and remove renders.", no_args_is_help=True)
Render = Annotated[Path, typer.Argument(help="Render folder, or the video it makes.")]


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the renders whose folders are there: interrupted, running, or finished (with --keep)."""
    from avatarctl.render.known import known_renders
    from avatarctl.render.standing import standing

    rows: list[dict[str, Any]] = []
    cells: list[tuple[str, ...]] = []
    for known in known_renders():
        now = standing(known.path)
        changed = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(known.changed))
        facts = {"path": str(known.path), "state": known.state, "output": known.output, "changed": changed}
        rows.append({**facts, **now.to_json()})
        done = "?" if now.percent is None else f"{now.percent} %"
        cells.append((known.state, done, _of(now.video_s), size(now.bytes["total"]), changed[5:16], _near(known.path)))
    text = console.table(("STATE", "DONE", "VIDEO", "ON DISK", "CHANGED", "RENDER"), cells) if rows else "no renders"
    console.result("renders list", {"renders": rows}, text, as_json)


def _of(seconds: float | None) -> str:
    return "?" if seconds is None else console.clock(seconds)


def _near(path: Path) -> str:
    """Return a path as it is named from here, where it lies below."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


@app.command()
def show(render: Render, as_json: AsJson = False) -> None:
    """Show how far a render is, what it is made of, and the settings that its preset doesn't say."""
    from avatarctl.render.folder import RenderFolder
    from avatarctl.render.inputs import changed_settings
    from avatarctl.render.known import look
    from avatarctl.render.standing import standing

    path = render_folder(render, "avatarctl renders show")
    manifest = RenderFolder(path).manifest()
    known, now = look(path), standing(path)
    counts: dict[str, int] = {}
    for event in known.events:
        counts[event["event"]] = counts.get(event["event"], 0) + 1
    settings = changed_settings(manifest)
    data = {
        "path": str(path),
        "state": known.state,
        **now.to_json(),
        "settings": settings,
        "events": counts,
        "manifest": manifest,
    }
    parts = ", ".join(f"{name} {size(count)}" for name, count in now.bytes.items() if count and name != "total")
    rows = [
        ("state", known.state),
        ("done", now.words()),
        ("video", f"{console.clock(now.video_done_s)} of {_of(now.video_s)} finished"),
        ("on disk", f"{size(now.bytes['total'])} ({parts})"),
        ("output", known.output),
        ("image", manifest["inputs"]["image"]["path"]),
        ("audio", manifest["inputs"]["audio"]["path"]),
        *([("preset", manifest["job"]["preset"])] if manifest["job"].get("preset") else []),
        *((name.replace("_", " "), str(value)) for name, value in settings.items()),
        ("events", ", ".join(f"{count} {name}" for name, count in counts.items())),
    ]
    console.result("renders show", data, console.table(("RENDER", str(path)), rows), as_json)


@app.command()
def verify(render: Render, as_json: AsJson = False) -> None:
    """Read every file of a render and compare it with its checksum. Damaged ones are named; resuming computes them again."""
    from avatarctl.render.folder import RenderFolder

    folder = RenderFolder(render_folder(render, "avatarctl renders verify"))
    folder.manifest()
    sound, damaged = folder.verify()
    data: dict[str, Any] = {"path": str(folder.path), "whole": len(sound), "damaged": damaged}
    if damaged:
        raise InputFileError(
            f"{folder.path}: {len(damaged)} of {len(sound) + len(damaged)} files are damaged or missing: "
            + ", ".join(damaged[:12]),
            f"avatarctl resume {shlex.quote(str(folder.path))} computes them again",
        )
    console.result("renders verify", data, f"{len(sound)} files, all whole", as_json)


@app.command()
def remove(render: Render, force: Force = False, as_json: AsJson = False) -> None:
    """Remove a render folder (never the finished video). An unfinished one asks for --force."""
    from avatarctl.ownership import listed
    from avatarctl.render.folder import RenderFolder
    from avatarctl.render.known import look
    from avatarctl.render.ours import is_render

    path = render_folder(render, "avatarctl renders remove")
    folder = RenderFolder(path)
    if not (force and is_render(path)):  # what is broken may still be thrown away
        folder.manifest()
    known = look(path)
    if known.state == "running":
        raise BusyError(f"{path}: a process is rendering in it", "stop that process first")
    if names := folder.foreign():
        raise UsageError(
            f"{path}: got files that are not of this render ({listed(names)}), expected none",
            "move them elsewhere and run this again; nothing was removed",
        )
    if known.state != "finished" and not force:
        raise UsageError(
            f"{path}: the render is not finished",
            f"avatarctl resume {shlex.quote(str(path))}, or remove it with --force",
        )
    with folder.held():
        folder.remove()
    console.result("renders remove", {"path": str(path)}, str(path), as_json)
