"""Verify fetched weights, or remove a set; touches only what was fetched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from avatarctl import console, durable
from avatarctl.fetching import record
from avatarctl.fetching.fetch import drop_parts
from avatarctl.fetching.record import Record
from avatarctl.fetching.sets import WeightSet
from avatarctl.networks.header import damage
from avatarctl.weights import checksum


def verify(folder: Path, records: dict[str, Record], name: str, show: Callable[[int, int], None]) -> dict[str, str]:
    """Read every file of a set and compare it with its SHA-256; give path -> what is wrong with it.

    What is found is written into the record, so that the next fetch gets those files anew; nothing is removed.
    """
    entry, problems = records[name], {}
    before, entry.damaged = entry.damaged, []  # what was damaged may have been put right
    for number, (path, fetched) in enumerate(sorted(entry.files.items()), start=1):
        problem = entry.fault(folder, path)
        if not problem and durable.digest(folder / path) != fetched.sha256:
            problem = "got other bytes than were fetched"
        if problem:
            problems[path] = problem
        show(number, len(entry.files))
    entry.damaged = sorted(problems)
    if entry.damaged != before:
        record.write(folder, records)
    return problems


def remove(folder: Path, records: dict[str, Record], weight_set: WeightSet) -> tuple[list[str], int]:
    """Remove the files of a set, what was received of others, and folders that this empties; give paths and bytes.

    Of linked files only the link goes. The bytes are those that the files have, linked ones too.
    """
    entry = records.pop(weight_set.name)
    kept = {path for other in records.values() for path in other.files}
    gone = sorted(set(entry.files) - kept)
    with durable.guarded(folder, "", "make the folder writable"):
        for path in gone:
            if (folder / path).is_file() and not _as_fetched(folder / path, entry.files[path].sha256):
                console.note(f"{folder / path}: is not what was fetched, and stays")
                continue
            (folder / path).unlink(missing_ok=True)
            _remove_empty(folder, (folder / path).parent)
        drop_parts(folder, weight_set.name)
    record.write(folder, records)
    return gone, sum(entry.files[path].size for path in gone)


def _as_fetched(path: Path, sha256: str) -> bool:
    """Return whether a file is what was put there, or a damaged one: then it is nobody's work."""
    return bool(damage(path)) or checksum(path) == sha256


def _remove_empty(top: Path, folder: Path) -> None:
    while folder != top and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent
