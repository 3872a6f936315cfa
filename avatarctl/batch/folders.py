"""Find the recordings of a folder and the pictures that go with them, and name whatever is passed over."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from avatarctl import durable
from avatarctl.batch.history import STATE
from avatarctl.batch.rows import Row
from avatarctl.batch.tally import SUMMARY
from avatarctl.errors import InputFileError
from avatarctl.formats import NO_RECORDINGS, PICTURES, RECORDINGS
from avatarctl.paths import composed

LOOKERS = 8  # files looked at together: most of the time goes to waiting for ffmpeg and the disk


@dataclass(frozen=True)
class Found:
    """What lies in a folder: recordings in order, and the rest, which no video is made of."""

    recordings: tuple[Path, ...]
    rest: tuple[Path, ...]


def look_into(folder: Path, output: Path) -> Found:
    """Sort a folder's files into recordings and the rest; hidden ones and what a batch made there are neither.

    Known endings decide; a file with any other ending is a recording if it has sound, as `generate` would take it.
    """
    paths = files(folder, output)
    unknown = [path for path in paths if kind_of(path) == "unknown"]
    with ThreadPoolExecutor(LOOKERS) as pool:
        sounds = {path for path, has in zip(unknown, pool.map(has_sound, unknown), strict=True) if has}
    taken = tuple(path for path in paths if kind_of(path) == "recording" or path in sounds)
    return Found(taken, tuple(path for path in paths if path not in taken))


def files(folder: Path, output: Path) -> list[Path]:
    """Return what lies in a folder, in order, but hidden files and what a batch into ``output`` made there."""
    ours = made_here(output) if folder.resolve().is_relative_to(output.resolve()) else frozenset()
    return [path for path in sorted(folder.iterdir()) if not _hidden(path, output) and path.resolve() not in ours]


def kind_of(path: Path) -> str:
    """Return what a file is by its ending: recording, other, or unknown."""
    ending = path.suffix.lower()
    if not path.is_file():
        return "other"
    return "recording" if ending in RECORDINGS else "other" if ending in NO_RECORDINGS else "unknown"


def has_sound(path: Path) -> bool:
    """Return whether a file of an unknown ending is a recording."""
    from avatarctl.audio.decode import probe

    try:
        probe(path)
    except InputFileError:
        return False
    return True


def _hidden(path: Path, output: Path) -> bool:
    return path.name.startswith(".") or path.name.endswith(".render") or path.resolve() == output.resolve()


def made_here(output: Path) -> frozenset[Path]:
    """Return the videos, contact sheets and summary of batches into this folder: no recordings, no pictures of people."""
    found = {output / SUMMARY}
    for file in (output / STATE).rglob("*.json"):
        if (record := durable.unsealed(file)) is not None and "video" in record:
            found.add(output / record["video"])
            if record["contact_sheet"]:
                found.add(Path(record["contact_sheet"]))
    # A kill between the video and its record leaves the render folder, which knows.
    for file in output.rglob("*.render/delivered.json"):
        if (content := durable.unsealed(file)) is not None:
            found.add(Path(content["output"]))
    return frozenset(path.resolve() for path in found)


# -- Pictures that go with recordings ---------------------------------------------------------------------------------


def paired(row: Row, pictures: Path, must: bool, ours: Collection[Path] = ()) -> Row:
    """Return a row with the picture of its recording's name, unless it names one itself; ``must``: there has to be one.

    ``ours``: contact sheets and the like, which are nobody's picture.
    """
    audio = row.values.get("audio")
    if not isinstance(audio, str) or row.values.get("image") is not None:
        return row
    stem = Path(audio).stem
    found = [path for path in _pictures(pictures, stem) if path.resolve() not in ours]
    if len(found) == 1:
        return replace(row, values={**row.values, "image": str(found[0])}, places={**row.places, "image": row.where})
    if not found and not must:
        return row
    names = f"{len(found)} of this name ({', '.join(path.name for path in found)}), expected one"
    wanted = names if found else f"none in {pictures}, expected {stem}.png, .jpg or the like"
    return replace(row, mistakes=(*row.mistakes, f"image ({row.where}): got {wanted}"))


def _pictures(folder: Path, stem: str) -> list[Path]:
    """Return the pictures of this name; those whose accents are written the other way, if there is none."""
    try:
        shelf = _shelf(folder, folder.stat().st_mtime_ns)
    except OSError:
        return []
    exact = [path for path in shelf.get(composed(stem), ()) if path.stem == stem]
    return exact or list(shelf.get(composed(stem), ()))


@lru_cache(maxsize=64)
def _shelf(folder: Path, _changed_ns: int) -> dict[str, tuple[Path, ...]]:
    """Return the pictures in a folder by name; its time of change sees to it that they aren't old ones."""
    found: dict[str, tuple[Path, ...]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in PICTURES and not path.name.startswith(".") and path.is_file():
            found[composed(path.stem)] = (*found.get(composed(path.stem), ()), path)
    return found
