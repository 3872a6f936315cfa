"""Keep what was found of each file of footage beside the clips: scans, plans, records; sealed, each in one step."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from avatarctl import durable, ownership
from avatarctl.data.discover import MASKS
from avatarctl.data.prepare.scan import Scan, read_scan
from avatarctl.data.prepare.sources import Source
from avatarctl.errors import BusyError, ChangedError, InputFileError, UsageError
from avatarctl.settings.prepare import PrepareSettings

HOME = ".prepare"
ABOUT, SCANS, RECORDS, LOCKS = "about.json", "scans", "records", "locks"
VERSION = 1


@dataclass
class Record:
    """What became of a file: its candidates as they are reported, and whether all its clips are written.

    ``stamp``: of the file when it was looked at; ``sha256`` of its content. ``notes``: what the user should know.
    ``copy_of``: the file with the same content that is prepared instead.
    """

    name: str
    source: str
    stamp: str
    sha256: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    done: bool = False
    copy_of: str | None = None

    @property
    def is_copy(self) -> bool:
        """Return whether it was dropped as a copy of another file."""
        return any(row["reason"] == "duplicate" for row in self.rows)

    def files(self) -> Iterator[str]:
        """Return the names, seen from the folder of clips, of what the clips of this file are made of."""
        for row in self.rows:
            if row["clip"]:
                yield from files_of(row["clip"])


def files_of(clip: str) -> list[str]:
    """Return the names of a clip's files: video, caption, masks."""
    folder, _, last = clip.rpartition("/")
    stem, above = last.removesuffix(".mp4"), f"{folder}/" if folder else ""
    masks = [f"{above}{MASKS}/{stem}.{part}.mkv" for part in ("face", "lip")]
    return [clip, f"{above}{stem}.txt", *masks]


class Home:
    """The records in a folder of clips."""

    def __init__(self, clips: Path) -> None:
        self.clips, self.folder = clips, clips / HOME

    def begun(self) -> bool:
        """Return whether clips were written here."""
        return (self.folder / ABOUT).exists()

    def check(self, settings: PrepareSettings | None) -> None:
        """Refuse a folder that holds something else; with ``settings``, also one whose clips were made with others.

        Raises ``UsageError``, ``InputFileError``, ``ChangedError``.
        """
        if self.clips.exists() and not self.clips.is_dir():
            raise InputFileError(
                f"{self.clips}: got a file, expected a folder for the clips", "choose another --output"
            )
        if not self.folder.exists():
            if other := ownership.foreign(self.clips, lambda _: False):
                raise UsageError(
                    f"{self.clips}: got a folder with other things in it ({ownership.listed(other)}), expected clips or none",
                    "choose another --output; nothing was touched",
                )
            return
        if settings is None or not self.begun():
            return
        old = durable.unsealed(self.folder / ABOUT)
        if old is None:
            raise InputFileError(f"{self.folder / ABOUT}: got a damaged file", "start over with --force")
        new = self._about(settings)
        changes = [
            f"{name}: was {old['settings'].get(name)}, is {new['settings'].get(name)}"
            for name in sorted({*old["settings"], *new["settings"]})
            if old["settings"].get(name) != new["settings"].get(name)
        ]
        if old["version"] != VERSION:
            changes.append(f"version: was {old['version']}, is {VERSION}")
        if changes:
            raise ChangedError(
                f"{self.clips}: these clips were made with other settings:\n  " + "\n  ".join(changes),
                "use the old ones, choose another --output, or decide again with --force (what was seen is kept)",
            )

    def begin(self, settings: PrepareSettings | None) -> None:
        """Make the folder, and note the settings of its clips, once; None: clips aren't written."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if settings is not None and not self.begun():
            durable.replace(self.folder / ABOUT, durable.sealed(self._about(settings)))

    def _about(self, settings: PrepareSettings) -> dict[str, Any]:
        return {"version": VERSION, "settings": settings.that_count()}

    def clear(self) -> None:
        """Remove clips and records; scans stay. Raises ``BusyError`` while another process writes."""
        for lock in sorted((self.folder / LOCKS).glob("*.lock")):
            try:
                with FileLock(lock, timeout=0):
                    pass
            except Timeout as error:
                raise BusyError(f"{self.clips}: another process is preparing it", "stop that process first") from error
        (self.folder / ABOUT).unlink(missing_ok=True)
        for record in self.records():
            self.remove_clips(record)
        if (self.folder / RECORDS).exists():
            shutil.rmtree(self.folder / RECORDS)

    def remove_clips(self, record: Record) -> None:
        """Remove the clips of a file."""
        for name in record.files():
            (self.clips / name).unlink(missing_ok=True)

    # -- Files of one source ---------------------------------------------------------------------------------------------

    def record(self, key: str) -> Record | None:
        """Return what became of a file, or None when nothing is known."""
        content = durable.unsealed(self.folder / RECORDS / f"{key}.json")
        return None if content is None else Record(**content)

    def write(self, key: str, record: Record) -> None:
        """Keep what became of a file."""
        durable.replace(self.folder / RECORDS / f"{key}.json", durable.sealed(vars(record)))

    def records(self) -> list[Record]:
        """Return all records, ordered by name."""
        found = [self.record(path.stem) for path in sorted((self.folder / RECORDS).glob("*.json"))]
        return sorted((each for each in found if each is not None), key=lambda record: record.name)

    def scan_path(self, key: str) -> Path:
        """Return where the scan of a file lies."""
        return self.folder / SCANS / f"{key}.npz"

    def look_back(self, key: str) -> Scan | None:
        """Return what was seen of a file, whatever it was looked at with."""
        return read_scan(self.scan_path(key), None)

    def scan(self, key: str, recipe: dict[str, Any]) -> Scan | None:
        """Return the scan of a file, made of this content with these settings, or None."""
        return read_scan(self.scan_path(key), recipe)

    def refuse_foreign(self, record: Record, old: Record | None) -> None:
        """Raise ``UsageError`` when a file to be written is there and isn't ours: what ``old`` lists is."""
        ours = set(old.files()) if old is not None else set()
        for name in record.files():
            if name not in ours and (self.clips / name).exists():
                raise UsageError(
                    f"{self.clips / name}: exists already, and avatarctl didn't write it", "move that file away"
                )


def known(home: Home, source: Source, copy_of: str | None) -> Record | None:
    """Return the finished record of a file that is as it was, also in whether it is a copy, or None."""
    record = home.record(source.key)
    if record is None or not record.done or (record.copy_of, record.is_copy) != (copy_of, copy_of is not None):
        return None
    try:
        return record if record.stamp == source.stamp() else None
    except OSError:
        return None
