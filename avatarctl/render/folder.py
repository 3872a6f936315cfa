"""A render folder: its manifest, checked files, events and lock; every write is whole or absent.

Layout (render.json, index.json, windows/, frontier/, segments/, events.jsonl, lock): see README, "The render folder".
Order matters for a kill at any instant: a file is written under a temporary name, flushed, renamed, its folder flushed, and
only then listed with its checksum in index.json. What the index does not list, or lists with another checksum, does not
exist for a reader and is computed again.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from avatarctl import durable, jsontext
from avatarctl.durable import PART, digest, read_json, sealed, to_json, unsealed
from avatarctl.errors import BusyError, InputFileError
from avatarctl.paths import HERE_IS_GONE, here_is_gone
from avatarctl.settings.formats import SUFFIXES

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST, INDEX, EVENTS, LOCK, HOLDER = "render.json", "index.json", "events.jsonl", "lock", "holder.json"
DELIVERED = "delivered.json"
SUBTITLES = "subtitles"
OWN_FOLDERS = ("windows", "frontier", "segments", SUBTITLES)
PREVIEW = "preview"  # with the suffix of the video
OWN_FILES = (INDEX, EVENTS, "audio.f32", "conditions.safetensors", *(PREVIEW + suffix for suffix in SUFFIXES))


class RenderFolder:
    """One render's folder. Use it inside ``with folder.held():`` when writing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files: dict[str, dict[str, Any]] = {}
        self._lock = FileLock(path / LOCK)

    # -- Coming into being -------------------------------------------------------------------------------------------

    def exists(self) -> bool:
        """Return whether a render was begun here (its manifest is the first file written)."""
        return (self.path / MANIFEST).is_file()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder for this process; raises ``BusyError`` naming the process that does."""
        with guarded(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire(timeout=0)
            except Timeout as error:
                holder = read_json(self.path / HOLDER) or {}
                who = f"process {holder.get('pid', '?')} on {holder.get('host', '?')} since {holder.get('since', '?')}"
                raise BusyError(
                    f"{self.path}: the render is held by {who}", "wait for it, or stop that process and run this again"
                ) from error
        try:
            with guarded(self.path):
                since = time.strftime("%Y-%m-%d %H:%M:%S")
                self._replace(HOLDER, to_json({"pid": os.getpid(), "host": socket.gethostname(), "since": since}))
                for leftover in self.path.rglob(f"*{PART}"):
                    leftover.unlink()
                self.look()
                if self.exists() and not (self.path / DELIVERED).exists() and (why := self._index_lost()):
                    self.event("recompute", file=INDEX, why=why)
            yield
        finally:
            self._lock.release()

    def look(self) -> None:
        """Read the index: which files there are. A process that only reads calls it instead of holding the folder."""
        self._files = (unsealed(self.path / INDEX) or {}).get("files", {})

    def busy(self) -> bool:
        """Return whether another process holds the folder."""
        try:
            self._lock.acquire(timeout=0)
        except (Timeout, OSError):
            return True
        self._lock.release()
        return False

    def clear(self) -> None:
        """Remove everything of a render but the lock: it begins anew. What isn't ours stays."""
        for name in (DELIVERED, MANIFEST):  # first: from here on there is no render
            (self.path / name).unlink(missing_ok=True)
        self._sweep()

    def remove(self) -> None:
        """Remove the render, and its folder if nothing else is in it. A kill meanwhile leaves it delivered, not begun."""
        self._sweep()
        for name in (MANIFEST, DELIVERED, HOLDER, LOCK):  # in this order: while there is a manifest, it is delivered
            (self.path / name).unlink(missing_ok=True)
        if not any(self.path.iterdir()):
            self.path.rmdir()

    def _sweep(self) -> None:
        self._files = {}
        for name in OWN_FOLDERS:
            if (self.path / name).is_dir():
                shutil.rmtree(self.path / name)
        for entry in [self.path / name for name in OWN_FILES] + list(self.path.glob(f".*{PART}")):
            entry.unlink(missing_ok=True)

    def mark_delivered(self, output: Path, facts: Mapping[str, Any]) -> None:
        """Note that the video is in its place, whole: from here on there is nothing left to compute."""
        self._replace(DELIVERED, sealed({"output": str(output.resolve()), "sha256": digest(output), **facts}))

    def delivered(self, output: Path) -> dict[str, Any] | None:
        """Return the facts noted on delivery, if the video is still in its place as it was made."""
        content = unsealed(self.path / DELIVERED)
        if content is None or content.pop("output") != str(output.resolve()) or content.pop("sha256") != digest(output):
            return None
        return content

    def strangers(self) -> list[str]:
        """Return what lies in a folder that should become a render folder and isn't ours."""
        if not self.path.is_dir() or self.exists():
            return []
        own = {*OWN_FILES, *OWN_FOLDERS, LOCK, HOLDER, DELIVERED}
        return sorted(entry.name for entry in self.path.iterdir() if entry.name not in own and PART not in entry.name)

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Write render.json; from then on the render exists. What another render left behind is removed before."""
        self.clear()  # a kill while clearing may have left files of other inputs, and an index that vouches for them
        self._replace(MANIFEST, sealed(manifest))

    def manifest(self) -> dict[str, Any]:
        """Return render.json; raises ``InputFileError`` when it is missing or not what was written."""
        content = unsealed(self.path / MANIFEST)
        if content is None and self.exists():
            raise InputFileError(
                f"{self.path}: {MANIFEST} is damaged", "begin anew: the same `avatarctl generate` with --force"
            )
        if content is None:
            raise InputFileError(
                f"{self.path}: got no {MANIFEST}, expected a render folder",
                "see `avatarctl renders list` for the renders there are",
            )
        return content

    # -- Files -------------------------------------------------------------------------------------------------------

    def write(self, name: str, data: bytes) -> None:
        """Write a file and list it with its checksum."""
        self._replace(name, data)
        self._list(name, hashlib.sha256(data).hexdigest(), len(data))

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write tensors as a safetensors file."""
        from safetensors.torch import save

        self.write(name, save({key: tensor.contiguous() for key, tensor in tensors.items()}))

    def adopt(self, part: Path, name: str) -> None:
        """Take a file that another program wrote in this folder under a temporary name (``new_part``) into the render."""
        with guarded(self.path):
            with part.open("rb") as file:
                os.fsync(file.fileno())
                checksum = hashlib.file_digest(file, "sha256").hexdigest()
            size = part.stat().st_size
            os.replace(part, self.path / name)
            durable.flush_folder((self.path / name).parent)
        self._list(name, checksum, size)

    def new_part(self, name: str) -> Path:
        """Return a temporary path beside ``name``; the folder sweeps leftovers when it is next held."""
        target = self.path / name
        with self._there():
            target.parent.mkdir(parents=True, exist_ok=True)
        # With the process's number: an encoder orphaned by a kill may still be writing to the part of the one before.
        return durable.part_of(target)

    def read(self, name: str) -> bytes | None:
        """Return a file's content, or None when it is missing, unlisted or not what was written."""
        listed = self._files.get(name)
        if listed is None:
            return None
        try:
            data = (self.path / name).read_bytes()
        except FileNotFoundError:
            self.forget(name, "missing")
            return None
        if hashlib.sha256(data).hexdigest() != listed["sha256"]:
            self.forget(name, "damaged")
            return None
        return data

    def read_tensors(self, name: str) -> dict[str, Tensor] | None:
        """Return the tensors of a file, or None as :meth:`read` does."""
        from safetensors.torch import load

        data = self.read(name)
        return None if data is None else load(data)

    def valid(self, name: str) -> bool:
        """Return whether a listed file is there with the content that was written."""
        listed = self._files.get(name)
        if listed is None:
            return False
        found = digest(self.path / name)
        if found != listed["sha256"]:
            self.forget(name, "missing" if found is None else "damaged")
            return False
        return True

    def verify(self) -> tuple[list[str], list[str]]:
        """Return the names of whole files and of damaged or missing ones, from the index on disk; changes nothing."""
        entries = (unsealed(self.path / INDEX) or {}).get("files", {})
        whole: list[str] = []
        damaged = [INDEX] if self._index_lost() else []
        for name, entry in sorted(entries.items()):
            (whole if digest(self.path / name) == entry["sha256"] else damaged).append(name)
        return whole, damaged

    def listed(self, folder: str) -> list[str]:
        """Return the listed names in a subfolder, in order."""
        return sorted(name for name in self._files if name.startswith(f"{folder}/"))

    def forget(self, name: str, why: str = "") -> None:
        """Take a file out of the index, then off the disk; ``why`` (missing, damaged) goes to the events."""
        if why:
            self.event("recompute", file=name, why=why)
        if self._files.pop(name, None) is not None:
            self._write_index()
        (self.path / name).unlink(missing_ok=True)

    def forget_all(self, names: list[str]) -> None:
        """Take many files out of the index at once, then off the disk."""
        for name in names:
            self._files.pop(name, None)
        if names:
            self._write_index()
        for name in names:
            (self.path / name).unlink(missing_ok=True)

    def event(self, kind: str, **data: Any) -> None:
        """Append a line to events.jsonl. The log is for people: a torn last line after a kill costs nothing."""
        line = jsontext.dumps({"time": round(time.time(), 3), "event": kind, **data}) + "\n"
        with guarded(self.path), (self.path / EVENTS).open("a", encoding="utf-8") as file:
            file.write(line)

    # -- How a write becomes durable -----------------------------------------------------------------------------------

    def _list(self, name: str, digest: str, size: int) -> None:
        self._files[name] = {"sha256": digest, "bytes": size}
        self._write_index()

    def _write_index(self) -> None:
        self._replace(INDEX, sealed({"files": self._files}))

    def _index_lost(self) -> str:
        """Tell what became of the index (missing, damaged, or nothing), if there was one: the first file is listed."""
        if (self.path / INDEX).is_file():
            return "" if unsealed(self.path / INDEX) else "damaged"
        return "missing" if any((self.path / name).is_dir() for name in OWN_FOLDERS) else ""

    def _replace(self, name: str, data: bytes) -> None:
        with self._there():
            durable.replace(self.path / name, data)

    @contextmanager
    def _there(self) -> Iterator[None]:
        """Refuse to make a folder again that somebody deleted meanwhile: what lay in it is lost."""
        with guarded(self.path):
            if not self.path.is_dir():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.path))
            yield


@contextmanager
def guarded(path: Path) -> Iterator[None]:
    """Turn a full disk, a read-only or deleted folder and the like into errors that say what to do about a render."""
    full = "free some space and run `avatarctl resume`: what is finished is kept"
    try:
        with durable.guarded(path, full=full, elsewhere="choose another with --work-dir"):
            yield
    except FileNotFoundError as error:
        if here_is_gone():
            raise InputFileError(*HERE_IS_GONE) from error
        if path.is_dir():
            raise  # something else is
        raise InputFileError(
            f"{path}: was deleted or moved while the render ran",
            "put it back and run `avatarctl resume`, or run the same command again, which begins from the start",
        ) from error
