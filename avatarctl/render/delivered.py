"""What left a render folder: put finished files in their places, and note which ones they are and that all is done."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from avatarctl import durable
from avatarctl.durable import digest
from avatarctl.paths import derived
from avatarctl.render.folder import RenderFolder
from avatarctl.render.guard import guarded
from avatarctl.render.ours import DELIVERED, DELIVERING


def hand_over(folder: RenderFolder, part: Path, target: Path) -> None:
    """Put a finished file in its place in one step, also on another disk; before, note that it is ours.

    Of a symbolic link the file that it leads to is written.
    """
    place = durable.through(target)
    with guarded(place.parent):
        durable.make_folder(place.parent)
        folder.note(DELIVERING, {"files": {**_handed_over(folder), str(place.resolve()): digest(part)}})
        near = derived(place, ".", f".avatarctl{durable.PART}")
        try:
            shutil.move(part, near)
            with near.open("rb+") as file:
                os.fsync(file.fileno())
            near.replace(place)
            durable.flush_folder(place.parent)
        finally:
            near.unlink(missing_ok=True)


def wrote(folder: RenderFolder, target: Path) -> bool:
    """Return whether a file outside of the folder is there as this render put it there."""
    made = _handed_over(folder).get(str(target.resolve()))
    return made is not None and made == digest(target)


def mark_delivered(folder: RenderFolder, output: Path, facts: Mapping[str, Any]) -> None:
    """Note that the video is in its place, whole: from here on there is nothing left to compute."""
    files = _handed_over(folder)
    folder.note(DELIVERED, {"output": str(output.resolve()), "sha256": digest(output), "files": files, **facts})


def facts_of_delivery(folder: RenderFolder, output: Path) -> dict[str, Any] | None:
    """Return the facts noted on delivery, if the video is still in its place as it was made."""
    content = folder.note_of(DELIVERED)
    if content is None or content.pop("output") != str(output.resolve()) or content.pop("sha256") != digest(output):
        return None
    return content


def was_delivered(folder: RenderFolder) -> bool:
    """Return whether the video was delivered once."""
    return folder.note_of(DELIVERED) is not None


def _handed_over(folder: RenderFolder) -> dict[str, str]:
    """Return the checksums of the files that left the folder, by their place; while there is a manifest, they are noted."""
    notes = (folder.note_of(DELIVERED) or {}, folder.note_of(DELIVERING) or {})
    files = {path: checksum for note in notes for path, checksum in note.get("files", {}).items()}
    if "output" in notes[0]:  # the first version noted nothing else
        files.setdefault(notes[0]["output"], notes[0]["sha256"])
    return files
