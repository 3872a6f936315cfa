"""The pictures of a video as PNG files in a folder of the user's: their names, and which of them a render wrote."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from avatarctl import durable, ownership
from avatarctl.errors import UsageError
from avatarctl.ownership import Inputs
from avatarctl.render.folder import RenderFolder
from avatarctl.render.ours import ANY_PICTURE, FRAMES, MANIFEST

PNG = re.compile(r"frame_(\d{7,})\.png")
PART = re.compile(r"\.frame_\d{7,}\.png\.\d+\.part")


def name_of(picture: int) -> str:
    """Return the name of the file of a picture."""
    return f"frame_{picture:07d}.png"


def check(frames: Path, folder: RenderFolder, inputs: Inputs, force: bool) -> None:
    """Refuse a folder for PNG files that is none, can't be written, or holds pictures that this render did not write.

    With ``force`` these are replaced, but for inputs. Raises ``UsageError`` or ``InputFileError``.
    """
    ownership.check_name(frames, "--frames", "a folder for the pictures", "--frames frames")
    if frames.exists() and not frames.is_dir():
        other = frames.with_name(f"{frames.stem}-frames")
        raise UsageError(
            f"--frames: got the file {frames}, expected a folder", f"such as --frames {shlex.quote(str(other))}"
        )
    ownership.check_can_make(frames, "--frames")
    known = {tuple(status[:2]): each for each in inputs if (status := ownership.identity(each[1]))}
    own = reserved(folder, frames)
    for picture, path in _pictures(frames):
        if found := known.get(tuple((ownership.identity(path) or [])[:2])):
            ownership.check_no_input(path, "--frames", [found])
        if picture >= own and not force:
            raise UsageError(
                f"{path}: exists already, and this render did not write it",
                "choose another --frames, or overwrite the pictures in it with --force",
            )


def reserved(folder: RenderFolder, frames: Path) -> int:
    """Return how many pictures, from the first on, this render may have written into a folder."""
    note = folder.note_of(FRAMES)
    if note is None:
        manifest = folder.note_of(MANIFEST) or {}
        first_version = manifest.get("version") == 1 and manifest["job"].get("frames") == str(frames.resolve())
        return ANY_PICTURE if first_version else 0
    return int(note["pictures"]) if note.get("folder") == str(frames.resolve()) else 0


def reserve(folder: RenderFolder, frames: Path, pictures: int) -> None:
    """Note that this render writes the first ``pictures`` pictures, before the first of them is written; make the folder."""
    if pictures > reserved(folder, frames):
        folder.note(FRAMES, {"folder": str(frames.resolve()), "pictures": pictures})
    durable.make_folder(frames)


def sweep(folder: RenderFolder, frames: Path) -> None:
    """Remove the pictures that a kill left half-written."""
    if reserved(folder, frames):
        for entry in frames.iterdir() if frames.is_dir() else ():
            if PART.fullmatch(entry.name):
                entry.unlink()


def _pictures(frames: Path) -> Iterator[tuple[int, Path]]:
    if frames.is_dir():
        for entry in sorted(frames.iterdir()):
            if match := PNG.fullmatch(entry.name):
                yield int(match[1]), entry
