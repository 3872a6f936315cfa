"""The names and marks of a render folder: which files in it are the program's own, and whether a folder is a render of ours."""

from __future__ import annotations

import re
from pathlib import Path

from avatarctl import ownership
from avatarctl.durable import read_json, unsealed, unsealed_line

MANIFEST, INDEX, EVENTS, LOCK, HOLDER = "render.json", "index.jsonl", "events.jsonl", "lock", "holder.json"
OLD_INDEX = "index.json"  # of the first version of render folders: rewritten whole for each file
DELIVERED, DELIVERING, FRAMES = "delivered.json", "delivering.json", "frames.json"
ANY_PICTURE = 1 << 40  # the first version noted nowhere which pictures it had written
PREVIEW = "preview"  # with the suffix of the video
SUBTITLES = "subtitles"
COMPUTED = ("windows", "frontier", "segments")
OWN_FOLDERS = (*COMPUTED, SUBTITLES)
# Removed in this order, after everything else: while there is a manifest, the render is delivered; the holder's file marks
# the folder as ours to the end.
LAST = (OLD_INDEX, INDEX, MANIFEST, DELIVERED, HOLDER, LOCK)
OWN_NAME = re.compile(
    "|".join(
        (
            *(re.escape(name) for name in (*LAST, EVENTS, DELIVERING, FRAMES, "conditions.safetensors")),
            r"(windows|frontier|segments|subtitles)/",
            r"subtitles/\d+\.\w+",
            r"windows/\d{6,}\.safetensors",
            r"frontier/generation-\d{8,}\.safetensors",
            r"frontier/(\d{6,}-\d{4,}\.safetensors|generation-\d{8,}\.json)",  # of the first version
            r"segments/\d{6,}\.\w+",
            r"audio\.\w+",  # the waveform that lips follow
            r"track\.\w+",  # the sound of the video, and what is known of it
            r"(preview|video|sheet)\.\w+",
        )
    )
)


def is_own(name: str) -> bool:
    """Return whether a name (relative, with slashes; a folder's ends with one) is one that a render writes."""
    return _whole(name) or ownership.own_part(name, _whole)


def is_render(path: Path) -> bool:
    """Return whether a folder is a render of ours, also one whose manifest is damaged or being removed."""
    for name in (MANIFEST, DELIVERED, OLD_INDEX):
        if unsealed(path / name) is not None:
            return True
    if _begins_as_index(path / INDEX):
        return True
    return set(read_json(path / HOLDER) or {}) == {"pid", "host", "since"}


def _begins_as_index(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return unsealed_line(file.readline().removesuffix(b"\n")) is not None
    except OSError:
        return False


def is_vacant(path: Path) -> bool:
    """Return whether a folder isn't there, or holds nothing but what a start leaves that was killed at once."""
    if not path.is_dir():
        return True
    names = ownership.foreign(path, lambda name: name == LOCK or ownership.own_part(name, HOLDER.__eq__))
    lock = path / LOCK
    return not names and not (lock.is_file() and lock.stat().st_size)


def foreign(path: Path) -> list[str]:
    """Return the names in a folder that are not ours, sorted; in a folder that is no render of ours, all of them."""
    if is_vacant(path):
        return []
    if is_render(path):
        return ownership.foreign(path, is_own)
    return sorted(entry.name + ("/" if entry.is_dir() else "") for entry in path.iterdir())


def parts(path: Path) -> list[Path]:
    """Return the half-written files of ours in a render folder; what isn't named like them is not ours."""
    places = [path, *(path / name for name in OWN_FOLDERS)]
    entries = (entry for place in places if place.is_dir() and not place.is_symlink() for entry in place.iterdir())
    return [entry for entry in entries if ownership.own_part(entry.relative_to(path).as_posix(), _whole)]


def _whole(name: str) -> bool:
    return bool(OWN_NAME.fullmatch(name))
