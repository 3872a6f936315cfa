"""A render folder: its manifest, checked files, events and lock; every write is whole or absent.

Layout (render.json, index.jsonl, windows/, frontier/, segments/, events.jsonl, lock): see docs/files-and-exit-codes.md.
Order matters for a kill at any instant: a file is written under a temporary name, flushed, renamed, its folder flushed, and
only then listed with its checksum in index.jsonl. What the index does not list, or lists with another checksum, does not
exist for a reader and is computed again.
"""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from avatarctl import __version__, durable, jsontext, ownership, tensorfile
from avatarctl.durable import digest, read_json, sealed, to_json, unsealed
from avatarctl.errors import BusyError, InputFileError, UsageError
from avatarctl.interrupts import undoing
from avatarctl.render import ours
from avatarctl.render.guard import guarded
from avatarctl.render.index import Entry, Index, read_index
from avatarctl.render.ours import (
    ANY_PICTURE,
    DELIVERED,
    EVENTS,
    FRAMES,
    HOLDER,
    INDEX,
    LAST,
    LOCK,
    MANIFEST,
    OLD_INDEX,
)

if TYPE_CHECKING:
    from torch import Tensor

# 1: one index.json, rewritten for each file; a file for each window in flight. 2: index.jsonl, one file for a generation.
MANIFEST_VERSION = 2


class RenderFolder:
    """One render's folder. Use it inside ``with folder.held():`` when writing.

    ``of_another``: another process holds it, and this one only reads.
    """

    def __init__(self, path: Path, of_another: bool = False) -> None:
        self.path = path
        self._of_another = of_another
        self._index = Index(path)
        self._lost_index = ""  # what had become of the index when the folder was opened: missing, damaged or nothing
        self._lock = FileLock(path / LOCK)
        self._made: list[Path] = []

    # -- Coming into being -------------------------------------------------------------------------------------------

    def exists(self) -> bool:
        """Return whether a render was begun here (its manifest is the first file written)."""
        return (self.path / MANIFEST).is_file()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder for this process; raises ``BusyError`` naming the process that does.

        Raises ``UsageError`` for a folder that isn't ours. One that has no render in the end is left as it was found.
        """
        self.check_ours()
        with self._guarded():
            self._made = ownership.make_folder(self.path)
            try:
                self._lock.acquire(timeout=0)
            except Timeout as error:
                holder = read_json(self.path / HOLDER) or {}
                who = f"process {holder.get('pid', '?')} on {holder.get('host', '?')} since {holder.get('since', '?')}"
                raise BusyError(
                    f"{self.path}: the render is held by {who}", "wait for it, or stop that process and run this again"
                ) from error
        try:
            with self._guarded():
                since = time.strftime("%Y-%m-%d %H:%M:%S")
                self._replace(HOLDER, to_json({"pid": os.getpid(), "host": socket.gethostname(), "since": since}))
                for leftover in ours.parts(self.path):
                    leftover.unlink()
                self._settle()
            with undoing(self.leave):
                yield
        finally:
            self.leave()
            self._lock.release()

    def leave(self) -> None:
        """Leave a folder without a render as it was found: what is ours goes, and so do folders that were made for it."""
        if not self.exists():
            self._sweep()
            ownership.remove_made(self._made)

    def look(self) -> None:
        """Read the index: which files there are. A process that only reads calls it instead of holding the folder."""
        self._index.look()

    def _settle(self) -> None:
        """Read the index, and leave a line for each file in it, no file without one, and the form of this version."""
        listing = self._index.look()
        manifest = unsealed(self.path / MANIFEST)
        if manifest is None or manifest.get("version", MANIFEST_VERSION + 1) > MANIFEST_VERSION:
            return  # no render, a damaged one or one of a newer version: refused elsewhere, and left as it is
        self._lost_index = listing.why
        if listing.why and not (self.path / DELIVERED).exists():
            old = (self.path / OLD_INDEX).exists() and not (self.path / INDEX).exists()
            self.event("recompute", file=OLD_INDEX if old else INDEX, why=listing.why)
        if not listing.settled:
            self._index.settle()
        if manifest["version"] < MANIFEST_VERSION:
            if manifest["job"].get("frames"):
                self.note(FRAMES, {"folder": manifest["job"]["frames"], "pictures": ANY_PICTURE})
            self.amend(version=MANIFEST_VERSION)
        (self.path / OLD_INDEX).unlink(missing_ok=True)

    def busy(self) -> bool:
        """Return whether another process holds the folder."""
        try:
            self._lock.acquire(timeout=0)
        except (Timeout, OSError):
            return True
        self._lock.release()
        return False

    def check_ours(self) -> None:
        """Raise ``UsageError`` for a folder that holds something and is no render of ours."""
        if not ours.is_vacant(self.path) and not ours.is_render(self.path):
            self._refuse(ours.foreign(self.path), "expected an empty folder or a render")

    def check_all_ours(self) -> None:
        """Raise ``UsageError`` for a folder that holds anything that isn't ours."""
        if names := self.foreign():
            self._refuse(names, "expected nothing but a render")

    def foreign(self) -> list[str]:
        """Return what lies in the folder and isn't ours."""
        return ours.foreign(self.path)

    def _refuse(self, names: list[str], expected: str) -> None:
        raise UsageError(
            f"{self.path}: got a folder with other files ({ownership.listed(names)}), {expected}",
            "move them elsewhere, or choose another folder with --work-dir; nothing was touched",
        )

    def clear(self) -> None:
        """Remove everything of a render but the lock and its holder: it begins anew. What isn't ours stays."""
        for name in (DELIVERED, MANIFEST):  # first: from here on there is no render
            (self.path / name).unlink(missing_ok=True)
        self._sweep(keep=(HOLDER, LOCK))

    def remove(self, and_folder: bool = True) -> None:
        """Remove the render, and its folder if nothing else is in it. A kill meanwhile leaves it delivered, not begun."""
        self._sweep()
        if and_folder and not any(self.path.iterdir()):
            self.path.rmdir()

    def _sweep(self, keep: tuple[str, ...] = ()) -> None:
        """Remove our files, the marks last: to the end the folder is known as ours."""
        self._index.clear()
        ownership.remove_own(
            self.path, lambda name: name not in keep and ours.is_own(name), [name for name in LAST if name not in keep]
        )

    # -- What it renders, and notes ----------------------------------------------------------------------------------

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Write render.json; from then on the render exists. What another render left behind is removed before."""
        self.clear()  # a kill while clearing may have left files of other inputs, and an index that vouches for them
        self._replace(MANIFEST, sealed(manifest))

    def manifest(self) -> dict[str, Any]:
        """Return render.json; raises ``InputFileError`` when it is missing or not what was written."""
        content = unsealed(self.path / MANIFEST)
        if content is None and self.exists() and ours.is_render(self.path):
            raise InputFileError(
                f"{self.path}: {MANIFEST} is damaged", "begin again: the same `avatarctl generate` with --force"
            )
        if content is None or "job" not in content:
            what = f"a {MANIFEST} of another program" if self.exists() else f"no {MANIFEST}"
            raise InputFileError(
                f"{self.path}: got {what}, expected a render folder",
                "see `avatarctl renders list` for the renders there are",
            )
        if content["version"] > MANIFEST_VERSION:
            raise InputFileError(
                f"{self.path}: got a render of avatarctl {content['avatarctl']}, expected one of {__version__} or older",
                "pip install --upgrade avatarctl",
            )
        return content

    def amend(self, **facts: Any) -> None:
        """Write render.json again with other facts in the place of some."""
        self._replace(MANIFEST, sealed({**self.manifest(), **facts}))

    def note(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a sealed note of our own, which the index does not list."""
        self._replace(name, sealed(content))

    def note_of(self, name: str) -> dict[str, Any] | None:
        """Return what :meth:`note` wrote, or None when it is missing or damaged."""
        return unsealed(self.path / name)

    # -- Files -------------------------------------------------------------------------------------------------------

    def write(self, name: str, data: bytes) -> None:
        """Write a file and list it with its checksum."""
        self._replace(name, data)
        self._list(name, hashlib.sha256(data).hexdigest(), len(data))

    def write_large(
        self, name: str, tensors: Mapping[str, Tensor], facts: Mapping[str, str], instead_of: list[str]
    ) -> None:
        """Write tensors and facts as a safetensors file without a copy in memory; it takes the place of other files.

        With three flushes, however many tensors and files there are.
        """
        part = self.new_part(name)
        with self._guarded():
            try:
                with part.open("wb") as file:
                    checksum, size = tensorfile.write_tensors(file, tensors, facts)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(part, self.path / name)
                durable.flush_folder(part.parent)
            finally:
                part.unlink(missing_ok=True)
        self._list(name, checksum, size, instead_of)
        self._remove(instead_of)

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write tensors as a safetensors file."""
        from safetensors.torch import save

        self.write(name, save({key: tensor.contiguous() for key, tensor in tensors.items()}))

    def adopt(self, part: Path, name: str) -> None:
        """Take a file that another program wrote in this folder under a temporary name (``new_part``) into the render."""
        with self._guarded():
            with part.open("rb+") as file:  # some systems flush only what is open for writing
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
            self._make_place(target)
        # With the process's number: an encoder orphaned by a kill may still be writing to the part of the one before.
        return durable.part_of(target)

    def read(self, name: str) -> bytes | None:
        """Return a file's content, or None when it is missing, unlisted or not what was written."""
        listed = self._index.get(name)
        if listed is None:
            return None
        try:
            data = (self.path / name).read_bytes()
        except FileNotFoundError:
            self.forget(name, "missing")
            return None
        if hashlib.sha256(data).hexdigest() != listed.sha256:
            self.forget(name, "damaged")
            return None
        return data

    def read_tensors(self, name: str) -> dict[str, Tensor] | None:
        """Return the tensors of a file, or None as :meth:`read` does."""
        from safetensors.torch import load

        data = self.read(name)
        return None if data is None else load(data)

    def read_large(self, name: str) -> dict[str, Tensor] | None:
        """Return the tensors of a file one by one, never all of its bytes beside them; None as :meth:`read` does."""
        from safetensors import safe_open

        if not self.valid(name):
            return None
        with safe_open(self.path / name, framework="pt") as file:
            return {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118 (no mapping)

    def facts_of(self, name: str) -> dict[str, str]:
        """Return the facts that :meth:`write_large` wrote beside the tensors."""
        return tensorfile.facts_of(self.path / name) or {}

    def valid(self, name: str) -> bool:
        """Return whether a listed file is there with the content that was written."""
        listed = self._index.get(name)
        if listed is None:
            return False
        found = digest(self.path / name)
        if found != listed.sha256:
            self.forget(name, "missing" if found is None else "damaged")
            return False
        return True

    def verify(self) -> tuple[list[str], list[str]]:
        """Return the names of whole files and of damaged or missing ones, from the index on disk; changes nothing."""
        listing = read_index(self.path)
        whole: list[str] = []
        damaged = [INDEX] if listing.why or self._lost_index else []
        for name, entry in sorted(listing.files.items()):
            (whole if digest(self.path / name) == entry.sha256 else damaged).append(name)
        return whole, damaged

    def listed(self, folder: str) -> list[str]:
        """Return the listed names in a subfolder, in order."""
        return self._index.names(folder)

    def forget(self, name: str, why: str = "") -> None:
        """Take a file out of the index, then off the disk; ``why`` (missing, damaged) goes to the events."""
        if self._of_another:
            raise InputFileError(
                f"{self.path / name}: {why or 'gone'}, as this process sees it, expected what another one wrote",
                "put the render on a disk that all machines share (--work-dir), and resume",
            )
        if why:
            self.event("recompute", file=name, why=why)
        self.forget_all([name])

    def forget_damaged(self, folder: str) -> None:
        """Forget the listed files of a subfolder that are not there as they were written."""
        for name in self.listed(folder):
            self.valid(name)

    def forget_all(self, names: list[str]) -> None:
        """Take many files out of the index at once, then off the disk."""
        if names:
            with self._there():
                self._index.change({}, names)
        self._remove(names)

    def _remove(self, names: list[str]) -> None:
        for name in names:
            (self.path / name).unlink(missing_ok=True)

    def event(self, kind: str, **data: Any) -> None:
        """Append a line to events.jsonl. The log is for people: a torn last line after a kill costs nothing."""
        line = jsontext.dumps({"time": round(time.time(), 3), "event": kind, **data}) + "\n"
        with self._guarded(), (self.path / EVENTS).open("a", encoding="utf-8") as file:
            file.write(line)

    # -- How a write becomes durable -----------------------------------------------------------------------------------

    def _list(self, name: str, digest: str, size: int, instead_of: Iterable[str] = ()) -> None:
        with self._there():
            self._index.change({name: Entry(digest, size)}, instead_of)

    def _guarded(self) -> AbstractContextManager[None]:
        return guarded(self.path, self.path)

    def _replace(self, name: str, data: bytes) -> None:
        with self._there():
            target = self.path / name
            self._make_place(target)
            durable.replace(target, data, make=False)

    def _make_place(self, target: Path) -> None:
        """Make the subfolder of a file, never the render's own folder once more."""
        if not target.parent.is_dir():
            target.parent.mkdir(exist_ok=True)
            durable.flush_folder(self.path)

    @contextmanager
    def _there(self) -> Iterator[None]:
        """Refuse to make a folder again that somebody deleted meanwhile: what lay in it is lost."""
        with self._guarded():
            if not self.path.is_dir():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.path))
            yield
