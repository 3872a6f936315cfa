"""Takes the folders of renders as they begin, gives those that are still there: finished, interrupted or running."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avatarctl.paths import data_folder
from avatarctl.render.folder import EVENTS, MANIFEST, RenderFolder, read_json

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


def known_renders() -> list[Known]:
    """Give the renders that exist, the newest first."""
    try:
        lines = (data_folder() / REGISTER).read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    paths = {Path(json.loads(line)) for line in lines if line.startswith('"') and line.endswith('"')}
    found = [look(path) for path in paths if (path / MANIFEST).is_file()]
    return sorted(found, key=lambda known: -known.changed)


def look(path: Path) -> Known:
    """Read a render folder's state from its files."""
    manifest = read_json(path / MANIFEST) or {}
    events = _events(path)
    state = "running" if RenderFolder(path).busy() else "interrupted"
    if state == "interrupted" and events and events[-1].get("event") == "finished":
        state = "finished"
    changed = (path / EVENTS).stat().st_mtime if (path / EVENTS).exists() else (path / MANIFEST).stat().st_mtime
    return Known(path, state, str(manifest.get("job", {}).get("output", "?")), changed, tuple(events))


def _events(path: Path) -> list[dict[str, Any]]:
    try:
        lines = (path / EVENTS).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    events = []
    for line in lines:
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            continue  # a line torn by a kill
    return events
