"""Remember where renders began, and list those that are still there: finished, interrupted or running."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avatarctl.durable import read_json, unsealed
from avatarctl.paths import data_folder
from avatarctl.render.folder import RenderFolder
from avatarctl.render.ours import DELIVERED, EVENTS, MANIFEST

REGISTER = "renders.jsonl"


@dataclass(frozen=True)
class Known:
    """A render folder and what its files say of it."""

    path: Path
    state: str  # finished, interrupted, running
    output: str
    changed: float  # seconds since the epoch
    events: tuple[dict[str, Any], ...]


def remember(path: Path) -> None:
    """Note a render folder, so that it is found from anywhere."""
    folder = data_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / REGISTER).open("a", encoding="utf-8") as file:
            file.write(json.dumps(str(path.resolve())) + "\n")
    except OSError:
        return  # the register is a convenience: a render doesn't fail for it


def known_renders(here: Path | None = None) -> list[Known]:
    """Return the renders that exist, the newest first; also those right in the folder ``here``, if they are not noted."""
    paths = {Path(line) for line in _lines(data_folder() / REGISTER) if isinstance(line, str)}
    paths |= {path.resolve() for path in here.glob("*.render") if unsealed(path / MANIFEST)} if here else set()
    found = [look(path) for path in paths if (path / MANIFEST).is_file()]
    return sorted(found, key=lambda known: -known.changed)


def look(path: Path) -> Known:
    """Read a render folder's state from its files."""
    manifest = read_json(path / MANIFEST) or {}
    events = [line for line in _lines(path / EVENTS) if isinstance(line, dict) and "event" in line]
    state = "running" if RenderFolder(path).busy() else "interrupted"
    if state == "interrupted" and (path / DELIVERED).is_file():
        state = "finished"
    changed = (path / EVENTS).stat().st_mtime if (path / EVENTS).exists() else (path / MANIFEST).stat().st_mtime
    return Known(path, state, str(manifest.get("job", {}).get("output", "?")), changed, tuple(events))


def _lines(path: Path) -> list[Any]:
    """Return what the lines of a file hold; one that a kill tore or a disk spoiled is left out."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    content = []
    for line in lines:
        try:
            content.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return content
