"""Record what was fetched into a folder: repository, revision, every file's size and SHA-256."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from avatarctl import durable
from avatarctl.errors import BusyError, WeightsError
from avatarctl.fetching.sets import SETS, WeightSet, choose, converted

RECORD = "fetched.json"
VERSION = 1
LOCK = ".fetch.lock"
MAKE_ROOM = (
    "make room there, or name a folder on another disk with --weights; then run the same command again to resume"
)
ELSEWHERE = "name a folder that can be written with --weights"


@dataclass(frozen=True)
class Fetched:
    """One file as it was when it was put there. ``origin_sha256``: of what it was converted from."""

    size: int
    sha256: str
    source: str  # "hub", "cache", "converted", or the path that was linked
    when: str
    origin_sha256: str = ""


@dataclass
class Record:
    """What is known of one set in a folder.

    ``needed``: the paths that make it whole, as they are released. ``damaged``: files that were found to be so.
    """

    repo: str
    revision: str  # a commit; empty while everything came from a folder
    needed: list[str] = field(default_factory=list)
    files: dict[str, Fetched] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)

    def put(self, path: str, size: int, sha256: str, source: str, origin_sha256: str = "") -> None:
        """Note a file that is in its place now."""
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self.files[path] = Fetched(size, sha256, source, when, origin_sha256)
        self.damaged = [each for each in self.damaged if each != path]

    def fault(self, folder: Path, path: str) -> str:
        """Say what is known to be wrong with a file, or a look at its size tells, or nothing."""
        if path not in self.files:
            return "missing"
        try:
            size = (folder / path).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return "missing"
        expected = self.files[path].size
        if size != expected:
            return f"got {size} bytes, expected {expected}"
        return "damaged" if path in self.damaged else ""

    def serves(self, folder: Path, path: str) -> str | None:
        """Return the path that serves for ``path``, itself or what it was converted to, if it is there in full size."""
        for each in dict.fromkeys((path, converted(path))):
            if not self.fault(folder, each):
                return each
        return None


def read(folder: Path) -> dict[str, Record]:
    """Return set -> record; raises ``WeightsError`` for a record that isn't what was written."""
    path = folder / RECORD
    content = durable.unsealed(path)
    if content is None:
        if path.exists():
            raise WeightsError(
                f"{path}: got a damaged record of what was fetched",
                f"remove {path} and run `avatarctl fetch` again: files that are whole stay",
            )
        return {}
    if content.get("version") != VERSION:
        raise WeightsError(
            f"{path}: got version {content.get('version')}, expected {VERSION}", "update avatarctl, or remove that file"
        )
    return {name: _record(entry) for name, entry in content["sets"].items()}


def _record(entry: dict[str, Any]) -> Record:
    files = {path: Fetched(**fetched) for path, fetched in entry["files"].items()}
    return Record(entry["repo"], entry["revision"], entry["needed"], files, entry["damaged"])


def write(folder: Path, records: dict[str, Record]) -> None:
    """Replace the record in one step; raises ``DeviceError`` when the disk is full."""
    with durable.guarded(folder, MAKE_ROOM, ELSEWHERE):
        sets = {name: asdict(record) for name, record in records.items()}
        durable.replace(folder / RECORD, durable.sealed({"version": VERSION, "sets": sets}))


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder against other processes that fetch into it; raises ``BusyError``.

    Makes the folder; one that holds nothing in the end is gone again.
    """
    made = not folder.exists()
    with durable.guarded(folder, MAKE_ROOM, ELSEWHERE):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise BusyError(f"{folder}: another process is fetching into it", "wait for it, or stop it") from error
    try:
        yield
    finally:
        # Unlinked while it is held: whoever comes now makes a lock of its own, and the folder stays.
        if made and [entry.name for entry in folder.iterdir()] == [LOCK]:
            (folder / LOCK).unlink()
            with suppress(OSError):
                folder.rmdir()
        lock.release()


State = Literal["complete", "incomplete", "absent"]


def missing(folder: Path, weight_set: WeightSet, record: Record | None) -> list[str]:
    """Return what a set still lacks: files that were found necessary, and parts without any file."""
    if record is None:
        return [part.role for part in weight_set.parts]
    lacking = [path for path in record.needed if not record.serves(folder, path)]
    known = [*record.needed, *record.files]
    lacking += [
        part.role
        for part in weight_set.parts
        if not choose(part, known) and not any(converted(p) in record.files for p in part.patterns)
    ]
    return lacking


def state(folder: Path, weight_set: WeightSet, record: Record | None) -> State:
    """Say how much of a set is there, by names and sizes."""
    if record is None or not record.files:
        return "absent"
    return "incomplete" if missing(folder, weight_set, record) else "complete"


def weights_complete(folder: Path) -> list[str]:
    """Return what is wrong with the sets that were fetched into a folder, by names and sizes; nothing where none was.

    Weights that were put there by hand are not in the record, so nothing is said of them. Raises ``WeightsError`` for
    a damaged record.
    """
    problems = []
    records = read(folder)
    for weight_set in SETS:
        if (record := records.get(weight_set.name)) is None:
            continue
        problems += [
            f"{weight_set.name}: {path}: {record.fault(folder, path)}" for path in missing(folder, weight_set, record)
        ]
    return problems
