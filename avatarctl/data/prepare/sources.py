"""Find the footage in folders and name each file; tell which are copies of others. Decodes nothing."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from avatarctl import durable
from avatarctl.errors import InputFileError, UsageError
from avatarctl.formats import FILMS, PICTURES, SOUND
from avatarctl.ownership import same_file

HINT = "`avatarctl data prepare --help` tells what it reads"


@dataclass(frozen=True)
class Source:
    """One file of footage. ``name``: its path seen from the folder that was given, without its ending unless it needs one."""

    name: str
    path: Path

    @property
    def key(self) -> str:
        """The name of its records: letters, digits, - and _ alone, and different for different names."""
        plain = re.sub(r"[^A-Za-z0-9]+", "_", self.name).strip("_")[-60:]
        return f"{plain}-{hashlib.sha256(os.fsencode(self.name)).hexdigest()[:10]}"

    def stamp(self) -> str:
        """Return size and time of change: while they are the same, the file need not be read again."""
        status = self.path.stat()
        return f"{status.st_size} {status.st_mtime_ns}"


@dataclass(frozen=True)
class Earlier:
    """A file that is known from an earlier run: its stamp and content then, and whether it was a copy of another."""

    name: str
    stamp: str
    sha256: str
    is_copy: bool

    @property
    def size(self) -> int:
        """Return its size in bytes; 0 when it couldn't be read."""
        return int(self.stamp.partition(" ")[0] or 0)


def find_sources(raw: Sequence[Path], output: Path, named: Mapping[str, str]) -> tuple[list[Source], list[str]]:
    """Return the footage of folders and files, ordered by name, and what was passed over in folders.

    ``named``: names that files have from earlier runs, by their absolute paths; they keep them. Raises ``InputFileError``
    for what isn't there or is no video, and where nothing is found.
    """
    found: dict[str, Path] = {}
    over: list[str] = []
    met: set[str] = set()
    taken = {name: Path(path) for path, name in named.items()}
    for place in raw:
        for path, relative in _files(place, output, over):
            whole = str(path.absolute())
            if whole in met:
                continue
            met.add(whole)
            name = named.get(whole) or _free_name(path, relative, found, taken)
            found[name] = path
    if not found:
        where = ", ".join(map(str, raw))
        raise InputFileError(f"{where}: got no video, expected footage (.mp4, .mov, .mkv, .webm …)", HINT)
    return [Source(name, found[name]) for name in sorted(found)], sorted(over)


def _free_name(path: Path, relative: Path, found: Mapping[str, Path], taken: Mapping[str, Path]) -> str:
    """Return a name that no other file has: without ending, with it, with the folder above."""
    plain = relative.with_suffix("")
    for name in (plain, relative, Path(path.absolute().parent.name) / relative):
        text = name.as_posix()
        other = found.get(text) or taken.get(text)
        if other is None or not other.exists() or same_file(other, path):
            return text
    raise UsageError(
        f"{path}: got a second file of this name, beside {found.get(plain.as_posix()) or taken.get(plain.as_posix())}",
        "give the folder above both as RAW, or choose another --output",
    )


def _files(place: Path, output: Path, over: list[str]) -> Iterator[tuple[Path, Path]]:
    if not place.exists():
        raise InputFileError(f"{place}: got no such file or folder, expected footage", "check the path")
    if not place.is_dir():
        ending = place.suffix.lower()
        if ending not in FILMS:
            kind = "a picture" if ending in PICTURES else "a recording" if ending in SOUND else f"a '{ending}' file"
            raise InputFileError(f"{place}: got {kind}, expected a video with sound, or a folder of them", HINT)
        yield place, Path(place.name)
        return

    def unreadable(error: OSError) -> None:
        raise InputFileError(f"{error.filename}: can't be read ({error.strerror})", "check its rights") from error

    inside, seen = os.path.realpath(output), {os.path.realpath(place)}
    for here, folders, files in os.walk(place, onerror=unreadable, followlinks=True):
        kept = []
        for name in sorted(folders):
            real = os.path.realpath(Path(here) / name)
            if not name.startswith(".") and real not in seen and real != inside:
                kept.append(name)
                seen.add(real)  # a link to a folder above would never end
        folders[:] = kept
        for name in sorted(files):
            path = Path(here) / name
            if name.startswith(".") or path.suffix.lower() == ".txt":
                continue  # captions
            if path.suffix.lower() in FILMS:
                yield path, path.relative_to(place)
            else:
                over.append(str(path.relative_to(place)))


def copies(sources: Sequence[Source], earlier: Sequence[Earlier] = ()) -> dict[str, str]:
    """Return name -> name of the file with the same content that is prepared; only files of one size are read.

    Of copies, the one that was prepared earlier is the original, whether or not it is among the sources; else the first by
    name. ``earlier``: of every file that is known.
    """
    known, here = {each.name: each for each in earlier}, {source.name for source in sources}
    of_size: dict[int, list[Earlier]] = {}
    for each in earlier:
        if not each.is_copy:
            of_size.setdefault(each.size, []).append(each)
    sizes: dict[int, list[Source]] = {}
    for source in sources:
        sizes.setdefault(source.path.stat().st_size if source.path.is_file() else 0, []).append(source)
    found = {}
    for size, group in sizes.items():
        names = {source.name for source in group}
        before = [each for each in of_size.get(size, ()) if each.name in names or each.name not in here]
        if not size or len(names | {each.name for each in before}) < 2:
            continue
        digests = {source.name: _digest(source, known.get(source.name)) for source in group}
        originals: dict[str, str] = {}
        for each in sorted(before, key=lambda each: each.name):
            if digests.get(each.name, each.sha256) == each.sha256:  # else it has other content by now
                originals.setdefault(each.sha256, each.name)
        for name in sorted(digests):
            original = originals.setdefault(digests[name], name)
            if original != name:
                found[name] = original
    return found


def _digest(source: Source, earlier: Earlier | None) -> str:
    if earlier is not None and earlier.sha256 and earlier.stamp == source.stamp():
        return earlier.sha256
    return durable.digest(source.path) or source.name
