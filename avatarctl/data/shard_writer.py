"""Write clips into a cache, as one of many processes that may do so at once; the form and its rules: shards.py."""

from __future__ import annotations

import hashlib
import os
import tarfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from avatarctl import durable, jsontext
from avatarctl.data.shards import INDEX, SHARDS, Begun, ClipEntry, Sample, SampleEntry, read_entry
from avatarctl.errors import InputFileError

LIST_S = 20.0  # of work that a kill may lose in the middle of a clip
BLOCK = tarfile.BLOCKSIZE


class ShardWriter:
    """Writes clips into a cache, as one of many processes that may do so at once. Use it in a ``with``."""

    def __init__(self, cache: Path, shard_bytes: int = 1 << 30) -> None:
        self.cache, self.shard_bytes = cache, shard_bytes
        self._lock, self._number = self._take_place()
        self._index = cache / INDEX / f"{self._number:04d}.jsonl"
        self._shard, self._end = self._where_to_resume()
        self._file: BinaryIO | None = None

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._close()
        finally:
            self._lock.release()

    def add(
        self,
        key: str,
        made_of: str,
        samples: Iterable[Sample],
        generation: int = 0,
        facts: Mapping[str, Any] | None = None,
        before: Sequence[SampleEntry] = (),
    ) -> ClipEntry:
        """Append a clip and list it. ``generation``: one more than that of the entry it replaces.

        ``samples`` are taken and written one by one: a clip of any length is never in memory as a whole, and what is written
        of it is listed every while. ``before``: samples of it that are in the cache already.

        With no samples the clip is listed without any: known, and nothing in the cache.
        """
        end, listed = self._end, False
        lines = self._index.stat().st_size if self._index.exists() else 0
        entries, new, listed_at = list(before), 0, time.monotonic()
        try:
            with self._guarded():
                for sample in samples:
                    entries.append(self._append(sample))
                    new += 1
                    if time.monotonic() - listed_at >= LIST_S:
                        self._flush()
                        self._list(Begun(key, made_of, tuple(entries[-new:]), self._shard, self._end))
                        lines, end = self._index.stat().st_size, self._end
                        new, listed_at = 0, time.monotonic()
                self._flush()
                clip = ClipEntry(key, made_of, generation, tuple(entries), self._shard, self._end, facts or {})
                self._list(clip)
                listed = True
        finally:
            # A full disk, Ctrl-C. A line that is whole stands, for other processes may have read it.
            if not listed and not self._has_line(lines):
                self._cut(lines, end)
        if self._end >= self.shard_bytes:
            self._close()
            self._shard, self._end = self._shard + 1, 0
        return clip

    # -- What lies where -----------------------------------------------------------------------------------------------

    def _take_place(self) -> tuple[FileLock, int]:
        with self._guarded():
            (self.cache / INDEX).mkdir(parents=True, exist_ok=True)
            (self.cache / SHARDS).mkdir(exist_ok=True)
            for number in range(10_000):
                lock = FileLock(self.cache / INDEX / f"{number:04d}.lock")
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    continue
                return lock, number
        raise InputFileError(f"{self.cache}: got 10000 writers, expected fewer", "start fewer processes on one cache")

    def _where_to_resume(self) -> tuple[int, int]:
        """Return the open shard's number and its length as listed; cut off what a kill left in the index and after it."""
        if not self._index.exists():
            return 0, 0
        with self._index.open("rb+") as file:
            whole, last = 0, None
            for line in file:
                if not line.endswith(b"\n"):
                    break
                whole, last = whole + len(line), line
            file.truncate(whole)
        if last is None:
            return 0, 0
        clip = read_entry(last)
        return (clip.shard + 1, 0) if clip.end >= self.shard_bytes else (clip.shard, clip.end)

    def _name(self) -> str:
        return f"{self._number:04d}-{self._shard:06d}.tar"

    def _open(self) -> BinaryIO:
        if self._file is None:
            path = self.cache / SHARDS / self._name()
            self._file = path.open("rb+" if path.exists() else "wb")
            self._file.truncate(self._end)
            self._file.seek(self._end)
        return self._file

    def _close(self) -> None:
        """End the shard as tar readers expect it, with two empty blocks; the next sample overwrites them."""
        file, self._file = self._file, None
        if file is not None:
            with self._guarded(), file:
                file.write(b"\0" * (2 * BLOCK))
                file.flush()
                os.fsync(file.fileno())

    def _has_line(self, start: int) -> bool:
        if not self._index.exists():
            return False
        with self._index.open("rb") as file:
            file.seek(start)
            return file.read().endswith(b"\n")

    def _cut(self, lines: int, end: int) -> None:
        if self._index.exists():  # first: what is not listed is not there
            os.truncate(self._index, lines)
        file, self._file, self._end = self._file, None, end
        if file is not None:
            with suppress(OSError):  # what it still holds back may find the disk full again; it is cut off anyway
                file.close()
            os.truncate(self.cache / SHARDS / self._name(), end)

    def _append(self, sample: Sample) -> SampleEntry:
        from safetensors.torch import save

        data = save({name: tensor.contiguous() for name, tensor in sample.tensors.items()})
        offset = self._member(f"{sample.key}.safetensors", data)
        thumb = (0, 0)
        if sample.thumb_jpg:
            thumb = (self._member(f"{sample.key}.jpg", sample.thumb_jpg), len(sample.thumb_jpg))
        about = jsontext.dumps(sample.meta, sort_keys=True).encode()
        self._member(f"{sample.key}.json", about)
        shapes = {name: tuple(tensor.shape) for name, tensor in sample.tensors.items()}
        checksum = hashlib.sha256(data).hexdigest()
        return SampleEntry(sample.key, self._name(), offset, len(data), checksum, shapes, sample.meta, thumb)

    def _member(self, name: str, data: bytes) -> int:
        """Append one file to the tar; return where its content begins."""
        info = tarfile.TarInfo(name)
        info.size = len(data)
        head = info.tobuf(tarfile.PAX_FORMAT)
        file = self._open()
        file.write(head)
        file.write(data)
        file.write(b"\0" * (-len(data) % BLOCK))
        offset = self._end + len(head)
        self._end = offset + len(data) + -len(data) % BLOCK
        return offset

    def _flush(self) -> None:
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())

    def _list(self, clip: ClipEntry | Begun) -> None:
        line = (jsontext.dumps(asdict(clip), sort_keys=True) + "\n").encode()
        # Unbuffered: of a line that a full disk cut, closing the file must not write the rest.
        with self._index.open("ab", buffering=0) as file:
            start, rest = file.tell(), memoryview(line)
            try:
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            except OSError:
                os.truncate(self._index, start)
                raise
        if start == 0:
            durable.flush_folder(self._index.parent)
            durable.flush_folder(self.cache / SHARDS)

    def _guarded(self) -> AbstractContextManager[None]:
        return durable.guarded(
            self.cache,
            full="free some space and run the same command again: what is encoded is kept",
            elsewhere="choose another --output",
        )
