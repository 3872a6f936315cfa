"""The spool: files that clients sent and that no job owns yet, under names of ours, within limits, for a day."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from avatarctl import console, durable
from avatarctl.serve.answers import Refused
from avatarctl.serve.guard import guarded

PREFIX = "file_"
NAME = re.compile(r"file_[0-9a-f]{24}")
OWN_LENGTH = len(PREFIX) + 24
KEPT_S = 24 * 3600.0
MOST_FILES = 200
FLOOR_BYTES = 256 << 20  # of free space that uploads leave
MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """How large a file may be, and all that lie in the spool together."""

    file_bytes: int = 2 << 30
    picture_bytes: int = 64 << 20
    all_bytes: int = 8 << 30


@dataclass(frozen=True)
class Spooled:
    """A file in the spool. ``filename``: what the client called it, for people alone; no path is ever made of it."""

    id: str
    kind: str
    """image or audio"""
    ending: str
    bytes: int
    sha256: str
    created_at: float
    filename: str
    facts: dict[str, Any]
    """What a look into the file said: sizes, notes, duration."""


class Spool:
    """The files in a folder, each with a note beside it."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.folder, self.limits = folder, limits
        self._lock = threading.Lock()
        self._coming: dict[str, int] = {}  # bytes that were announced and aren't written yet
        with guarded(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._files: dict[str, Spooled] = {}
        for path in sorted(folder.iterdir()):
            try:
                self._take_in(path)
            except (OSError, TypeError, KeyError) as error:
                console.note(f"warning: {path}: got something that is no upload; it is left as it is ({error})")
        self.tidy()

    def _take_in(self, path: Path) -> None:
        """Know a file of an earlier server by its note; what has none was cut off by a kill."""
        if NAME.fullmatch(path.stem) and path.suffix == ".json":
            content = durable.unsealed(path)
            whole = content is not None and (self.folder / path.stem).is_file()
            if whole and content is not None and (self.folder / path.stem).stat().st_size == content["bytes"]:
                self._files[path.stem] = Spooled(**content)
                return
            console.note(f"warning: {path}: got a damaged note of an upload; the upload is dropped")
            self._unlink(path.stem)
            return
        owner = self.folder / path.name.lstrip(".")[:OWN_LENGTH]
        noted = owner.with_name(f"{owner.name}.json").exists()
        half = path.name.endswith(".part") or not noted
        if NAME.fullmatch(owner.name) and half:  # also the preview of what isn't there
            path.unlink(missing_ok=True)

    # -- Room ----------------------------------------------------------------------------------------------------------

    def check_room(self, announced: int) -> None:
        """Refuse what can't fit before a byte of it is read."""
        if announced > self.limits.file_bytes + self.limits.picture_bytes + MIB:
            raise Refused(
                413,
                f"got a request of {console.size(announced)}, expected at most {console.size(self.limits.file_bytes)}",
                "send a shorter or compressed recording, or start the server with a larger --max-upload",
            )
        self.tidy()
        free = shutil.disk_usage(self.folder).free
        with self._lock:
            coming = sum(self._coming.values())
            kept, count = sum(file.bytes for file in self._files.values()), len(self._files)
        if free - coming - announced < FLOOR_BYTES:
            raise Refused(507, f"the server's disk is too full for {console.size(announced)}", "try again later")
        if kept + coming + announced > self.limits.all_bytes or count >= MOST_FILES:
            raise Refused(
                429,
                f"got too many uploads that no job uses: {count} files, {console.size(kept)}",
                "delete some (DELETE /v1/files/ID), or wait: they are kept for a day",
                {"Retry-After": "600"},
            )

    @contextmanager
    def expecting(self, announced: int) -> Iterator[None]:
        """Reserve room while a request is read."""
        self.check_room(announced)
        ticket = secrets.token_hex(8)
        with self._lock:
            self._coming[ticket] = announced
        try:
            yield
        finally:
            with self._lock:
                del self._coming[ticket]

    # -- Files ---------------------------------------------------------------------------------------------------------

    def begin(self) -> Writer:
        """Return a writer of a new file."""
        return Writer(self.folder / f"{new_id()}.part", self.limits)

    def keep(self, written: Writer, kind: str, ending: str, filename: str, facts: dict[str, Any]) -> Spooled:
        """Take a file that was written and looked at into the spool."""
        name = written.path.stem
        made = Spooled(name, kind, ending, written.bytes, written.sha256(), time.time(), filename, facts)
        with guarded(self.folder):
            os.replace(written.path, self.folder / name)
            durable.replace(self.folder / f"{name}.json", durable.sealed(asdict(made)), make=False)
        with self._lock:
            self._files[name] = made
        return made

    def get(self, name: str) -> Spooled:
        """Return a file by its name; raises ``KeyError``."""
        with self._lock:
            return self._files[name]

    def path_of(self, file: Spooled) -> Path:
        """Return where a file lies."""
        return self.folder / file.id

    def remove(self, name: str) -> None:
        """Remove a file; jobs have their own."""
        with self._lock:
            if self._files.pop(name, None) is not None:
                self._unlink(name)

    def lend(self, file: Spooled, target: Path) -> None:
        """Put a file into the folder of a job: the same bytes on the disk where that can be."""
        source = self.path_of(file)
        with guarded(target.parent):
            try:
                os.link(source, target)
            except OSError:
                shutil.copyfile(source, target)
                with target.open("rb") as copy:
                    os.fsync(copy.fileno())

    def preview_of(self, file: Spooled) -> Path:
        """Return where the preview of a picture lies."""
        return self.folder / f"{file.id}.jpg"

    def lend_preview(self, file: Spooled, target: Path) -> None:
        """Put the preview of a picture into the folder of a job, if there is one; it is no loss where that fails."""
        with suppress(OSError):
            shutil.copyfile(self.preview_of(file), target)

    def tidy(self) -> None:
        """Remove what is older than a day."""
        oldest = time.time() - KEPT_S
        with self._lock:
            for name in [name for name, file in self._files.items() if file.created_at < oldest]:
                del self._files[name]
                self._unlink(name)

    def _unlink(self, name: str) -> None:
        for file in (f"{name}.json", name, f"{name}.jpg"):  # the note first: what has none is nobody's
            with suppress(OSError):
                (self.folder / file).unlink(missing_ok=True)


class Writer:
    """A file that is being received. Use it inside ``with``: what isn't kept is removed."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self.path, self.bytes, self._limits = path, 0, limits
        self._hash = hashlib.sha256()
        self._file: IO[bytes] | None = None
        self._checked = 0

    def write(self, data: bytes) -> None:
        """Add bytes; refuses what is too large, and what would fill the disk."""
        self.bytes += len(data)
        if self.bytes > self._limits.file_bytes:
            raise Refused(
                413,
                f"got a file of more than {console.size(self._limits.file_bytes)}",
                "send a shorter or compressed recording, or start the server with a larger --max-upload",
            )
        if self.bytes - self._checked > 16 * MIB:
            self._checked = self.bytes
            if shutil.disk_usage(self.path.parent).free < FLOOR_BYTES:
                raise Refused(507, "the server's disk is full", "try again later")
        with guarded(self.path.parent):
            if self._file is None:
                self._file = self.path.open("wb")
            self._file.write(data)
        self._hash.update(data)

    def sha256(self) -> str:
        """Return the checksum of what was written."""
        return self._hash.hexdigest()

    def close(self) -> None:
        """Flush the file to the disk."""
        with guarded(self.path.parent):
            if self._file is None:
                self._file = self.path.open("wb")
            if not self._file.closed:
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()

    def drop(self) -> None:
        """Remove what was written, unless it was kept."""
        if self._file is not None:
            self._file.close()
        self.path.unlink(missing_ok=True)


def new_id() -> str:
    """Return a name that nobody can guess."""
    return PREFIX + secrets.token_hex(12)


def shown_name(given: str) -> str:
    """Return what a client called a file, fit to be shown: the last part, without controls, of bounded length."""
    last = re.split(r"[/\\]", given)[-1]
    return "".join(each for each in last if each.isprintable())[:100]
