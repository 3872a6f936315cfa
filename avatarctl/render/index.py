"""The index of a render folder: which files there are, with their checksums; a line is appended for each, whatever its length.

Every line (index.jsonl) has a seal of its own, and tells of a file that is there (name, sha256, bytes) or is there no more
(forgotten). A torn last line is what a kill leaves: it does not count, everything before it does. A damaged line in between
takes away the files that are listed there alone. The first line tells how many lines were written with it, when the folder
was last opened, so that an index that was cut is told from one that was killed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from avatarctl import durable
from avatarctl.durable import sealed_line, unsealed, unsealed_line
from avatarctl.render.ours import INDEX, OLD_INDEX, OWN_FOLDERS, is_own

# Written one by one and listed right after, by the render and by who works beside it: a kill leaves so many unlisted.
LISTED_AT_ONCE, UNLISTED_AFTER_A_KILL = ("windows", "segments"), 2


class Entry(NamedTuple):
    """A file as it was written."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Listing:
    """What an index says. ``why``: damaged, missing or nothing. ``settled``: its lines are the files, no more and no less."""

    files: dict[str, Entry]
    why: str = ""
    settled: bool = False


def read_index(folder: Path) -> Listing:
    """Return the files of a render folder as its index on disk lists them; changes nothing."""
    try:
        data = (folder / INDEX).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return _read_old(folder)
    *lines, torn = data.split(b"\n")
    files: dict[str, Entry] = {}
    contents = [unsealed_line(line) for line in lines]
    first = contents[0] if contents else None
    written_at_once = -1 if first is None else first.get("files", -1)
    damaged = None in contents or not 0 <= written_at_once < len(lines)
    for content in contents:
        if content is not None and "name" in content:
            files[content["name"]] = Entry(content["sha256"], content["bytes"])
        if content is not None and "forgotten" in content:
            files.pop(content["forgotten"], None)
    if not damaged and _unlisted(folder, files, LISTED_AT_ONCE)[UNLISTED_AFTER_A_KILL:]:
        damaged = True
    settled = not damaged and not torn and written_at_once == len(lines) - 1 == len(files)
    return Listing(files, "damaged" if damaged else "", settled)


def _read_old(folder: Path) -> Listing:
    """Read the index of the first version, which was sealed as a whole."""
    content = unsealed(folder / OLD_INDEX)
    if content is not None:
        return Listing({name: Entry(entry["sha256"], entry["bytes"]) for name, entry in content["files"].items()})
    if (folder / OLD_INDEX).is_file():
        return Listing({}, "damaged")
    # The first file of a render is listed, so where there are folders of files there was an index.
    return Listing({}, "missing" if any((folder / name).is_dir() for name in OWN_FOLDERS) else "")


def _unlisted(folder: Path, files: dict[str, Entry], places: Iterable[str]) -> list[Path]:
    """Return the files of ours in some subfolders that no index vouches for."""
    found = (entry for place in places if (folder / place).is_dir() for entry in (folder / place).iterdir())
    return [
        entry
        for entry in found
        if not entry.name.startswith(".") and _name(entry) not in files and is_own(_name(entry))
    ]


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


class Index:
    """The index of a folder that is held. Threads of one process may share it."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / INDEX
        self._files: dict[str, dict[str, Entry]] = {}  # subfolder -> name -> entry
        self._lock = threading.RLock()

    def look(self) -> Listing:
        """Read what the disk says."""
        listing = read_index(self._folder)
        with self._lock:
            self._files = {}
            for name, entry in listing.files.items():
                self._files.setdefault(_place(name), {})[name] = entry
        return listing

    def settle(self) -> None:
        """Write the index again, a line for each file, in one step, and remove the files that it doesn't list."""
        self._write()
        files = {name: entry for place in self._files.values() for name, entry in place.items()}
        for entry in _unlisted(self._folder, files, OWN_FOLDERS):
            entry.unlink()

    def clear(self) -> None:
        """Forget everything, here and not on the disk."""
        with self._lock:
            self._files = {}

    def get(self, name: str) -> Entry | None:
        """Return a file as it was written, or None when it isn't listed."""
        return self._files.get(_place(name), {}).get(name)

    def names(self, place: str) -> list[str]:
        """Return the listed names in a subfolder, in order."""
        with self._lock:
            return sorted(self._files.get(place, {}))

    def change(self, added: dict[str, Entry], dropped: Iterable[str] = ()) -> None:
        """List files and take others out, with one flush."""
        with self._lock:
            gone = [name for name in dropped if self.get(name) is not None]
            lines = [sealed_line({"name": name, **entry._asdict()}) for name, entry in added.items()]
            lines += [sealed_line({"forgotten": name}) for name in gone]
            there = self._path.is_file()
            if there and lines:
                durable.append(self._path, b"".join(lines))
            for name, entry in added.items():
                self._files.setdefault(_place(name), {})[name] = entry
            for name in gone:
                del self._files[_place(name)][name]
            if not there:  # the first file of all, or somebody removed the index
                self._write()

    def _write(self) -> None:
        with self._lock:
            files = {name: entry for place in self._files.values() for name, entry in place.items()}
            lines = [sealed_line({"files": len(files)})]
            lines += [sealed_line({"name": name, **entry._asdict()}) for name, entry in sorted(files.items())]
            durable.replace(self._path, b"".join(lines))


def _place(name: str) -> str:
    return name.partition("/")[0] if "/" in name else ""
