"""Decide what may be written or removed: the program's own files, free names, and with --force what is no input.

Whatever writes asks here first. A file is compared with the inputs by device and inode, so that symbolic links, hard
links and other spellings of one name are seen. A folder is swept by what the program knows to have written there.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from avatarctl.errors import InputFileError, UsageError

# What systems lay into folders on their own: nobody's work, left alone and not counted.
LITTER = re.compile(r"\.DS_Store|Thumbs\.db|desktop\.ini|\.directory|\.nfs[0-9a-f]+|\._.*", re.IGNORECASE)
PART = re.compile(r"\.(.+)\.\d+\.part")
SHOWN = 5

Inputs = Sequence[tuple[str, Path]]
"""What a command reads: (what it is, such as "the recording", and its path)."""


# -- Names ----------------------------------------------------------------------------------------------------------


def check_name(path: Path, flag: str, expected: str, such_as: str) -> None:
    """Refuse ``.``, ``..``, ``/`` and an empty name where a file or folder is to be named; raises ``UsageError``."""
    if path.name in ("", ".."):
        given = "nothing or the current folder" if str(path) == "." else f"'{path}'"
        raise UsageError(f"{flag}: got {given}, expected {expected}", f"such as {such_as}")


def check_render_name(path: Path, command: str) -> None:
    """Refuse ``.``, ``..``, ``/`` and an empty name as a render; raises ``UsageError``."""
    if path.name in ("", ".."):
        there = path.resolve()
        named = f"{command} {shlex.quote(str(there))}" if there.name else f"{command} talk.mp4.render"
        given = "nothing or the current folder" if str(path) == "." else f"'{path}'"
        raise UsageError(
            f"{command}: got {given}, expected the name of a render folder or of its video",
            f"{named}, from outside of that folder; `avatarctl renders list` names the renders there are",
        )


# -- Files that a command writes --------------------------------------------------------------------------------------


def same_file(one: Path, other: Path) -> bool:
    """Return whether two paths lead to one file that exists, by any link or spelling."""
    try:
        return one.samefile(other)
    except (OSError, ValueError):
        return False


def check_target(
    target: Path,
    flag: str,
    inputs: Inputs,
    force: bool,
    *,
    named: Path | None = None,
    ours: bool = False,
    can_force: bool = True,
) -> None:
    """Refuse a file to write that is an input, or that exists and is neither ours nor to be replaced.

    ``named``: what the user gave as ``flag``, where ``target`` only goes with it, such as a video's contact sheet.
    ``ours``: the program knows that it wrote what is there. ``can_force``: the command has a flag --force. Raises
    ``UsageError``.
    """
    check_no_input(target, flag, inputs, named)
    if target.is_dir():
        raise UsageError(f"{target}: got a folder, expected the name of a file", f"name another file: {flag}")
    if os.path.lexists(target) and _exists(target) and not (force or ours):
        way = f"choose another {flag}" + (", or overwrite it with --force" if can_force else ", or move that file away")
        raise UsageError(f"{target}: exists already{_with(target, flag, named)}", way)


def _with(target: Path, flag: str, named: Path | None) -> str:
    return f" (it goes with {flag} {named})" if named not in (None, target) else ""


def check_no_input(target: Path, flag: str, inputs: Inputs, named: Path | None = None) -> None:
    """Refuse a file to write that is one of the files that the command reads; raises ``UsageError``."""
    for what, path in inputs:
        if same_file(target, path):
            also = "" if target == path else f", {path},"
            raise UsageError(
                f"{target}: this is {what}{also} and would be overwritten{_with(target, flag, named)}; "
                "an input is never replaced",
                f"choose another name: {flag} {shlex.quote(str(beside_name(named or target)))}",
            )


def beside_name(path: Path) -> Path:
    """Return a free name beside ``path`` to suggest."""
    for mark in ("-avatar", *(f"-avatar-{number}" for number in range(2, 100))):
        other = path.with_name(f"{path.stem}{mark}{path.suffix}")
        if not os.path.lexists(other):
            return other
    return path.with_name(f"another{path.suffix}")


def _exists(path: Path) -> bool:
    """Return whether something is there; a link to nothing is free to be written through."""
    try:
        return path.exists()
    except (OSError, RuntimeError):  # a link that leads to itself
        return True


def check_can_make(folder: Path, flag: str) -> None:
    """Refuse a folder that is there and can't be written, or that can't be made; raises ``UsageError`` or ``InputFileError``."""
    for place in (folder, *folder.absolute().parents):
        if os.path.lexists(place):
            if not place.is_dir():
                raise UsageError(f"{place}: got a file, expected a folder", f"choose another {flag}")
            if not os.access(place, os.W_OK | os.X_OK):
                raise InputFileError(f"{place}: got a folder that can't be written", f"choose another {flag}")
            return


def check_apart(folder: Path, flag: str, other: Path, other_flag: str) -> None:
    """Refuse a place that is a folder which the program fills, or lies in it; raises ``UsageError``."""
    inner = Path(os.path.realpath(other))
    if any(place == Path(os.path.realpath(folder)) or same_file(place, folder) for place in (inner, *inner.parents)):
        raise UsageError(
            f"{other_flag}: got {other}, which is {folder} ({flag}) or lies in it", f"choose another {other_flag}"
        )


# -- Folders that a command fills -------------------------------------------------------------------------------------


def check_inputs_outside(folder: Path, flag: str, inputs: Inputs) -> None:
    """Refuse a folder that the program fills and empties when an input lies in it; raises ``UsageError``."""
    if not folder.is_dir():
        return
    for what, path in inputs:
        try:
            above = [path.resolve(), *path.resolve().parents]
        except (OSError, RuntimeError):
            continue
        if any(same_file(folder, place) for place in above):
            raise UsageError(
                f"{folder}: {what} ({path}) lies in it, and the program empties this folder",
                f"choose another {flag}",
            )


def foreign(folder: Path, own: Callable[[str], bool]) -> list[str]:
    """Return what lies in a folder at any depth and isn't ours, as sorted relative names; a whole folder as ``name/``.

    ``own``: whether a relative name, with slashes, is one that the program writes; of a folder with a slash at its end.
    Links are never followed, and are not ours.
    """
    found: list[str] = []

    def look(below: Path, prefix: str) -> None:
        with os.scandir(below) as entries:
            for entry in entries:
                name = prefix + entry.name
                if entry.is_dir(follow_symlinks=False):
                    if own(name + "/"):
                        look(Path(entry.path), name + "/")
                    else:
                        found.append(name + "/")
                elif not LITTER.fullmatch(entry.name) and (entry.is_symlink() or not own(name)):
                    found.append(name)

    if folder.is_dir():
        with suppress(FileNotFoundError):  # another process is tidying up
            look(folder, "")
    return sorted(found)


def own_part(name: str, own: Callable[[str], bool]) -> bool:
    """Return whether a relative name is that of a half-written file of ours (``.NAME.PROCESS.part``)."""
    place, _, last = name.rpartition("/")
    match = PART.fullmatch(last)
    return match is not None and own(f"{place}/{match[1]}" if place else match[1])


def remove_own(folder: Path, own: Callable[[str], bool], last: Sequence[str] = ()) -> None:
    """Remove our files from a folder, and folders of ours that this empties; what is foreign stays.

    ``last``: relative names that go after all others, in this order.
    """

    def sweep(below: Path, prefix: str) -> None:
        for entry in sorted(below.iterdir()):
            name = prefix + entry.name
            if entry.is_dir() and not entry.is_symlink():
                if own(name + "/"):
                    sweep(entry, name + "/")
                    with suppress(OSError):  # something foreign is in it
                        entry.rmdir()
            elif name not in last and not entry.is_symlink() and own(name):
                entry.unlink(missing_ok=True)

    if folder.is_dir():
        sweep(folder, "")
        for name in last:
            if not (folder / name).is_symlink():
                (folder / name).unlink(missing_ok=True)


def listed(names: Iterable[str]) -> str:
    """Return the first names of many, for a message."""
    names = list(names)
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest


def make_folder(folder: Path) -> list[Path]:
    """Make a folder and those above it; return the ones that were made, the topmost first."""
    missing: list[Path] = []
    place = folder.absolute()
    while not place.exists():
        missing.insert(0, place)
        place = place.parent
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def remove_made(made: Iterable[Path]) -> None:
    """Remove folders that :func:`make_folder` made, where they are empty."""
    for folder in reversed(list(made)):
        with suppress(OSError):
            folder.rmdir()


def place_of(path: Path) -> tuple[int, int] | None:
    """Return device and inode of a file, the same by every link to it, or None when it isn't there."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def identity(path: Path) -> list[int] | None:
    """Return what tells a file from any other and from itself after a change, or None when it isn't there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns]
