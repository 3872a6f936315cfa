"""Store encoded samples in WebDataset tar shards with an index, durable clip by clip.

A cache is a folder::

    cache.json               sealed: the settings and weights that everything in it was encoded with
    null.safetensors         text states of the empty and the negative prompt
    grey/CxTxHxW.safetensors latents of grey pictures of a size, which samples are stored as differences from
    shards/WWWW-NNNNNN.tar   samples of writer WWWW: KEY.safetensors, KEY.json, KEY.jpg one after another (WebDataset)
    index/WWWW.jsonl         a line per clip: its key, what it was made of, where its samples lie, with their checksums; before
                             it, for a long clip, lines with the samples so far, which aren't encoded again after a kill
    index/WWWW.lock          held by the process that writes as WWWW; the kernel lets go of it when that process dies

Order matters for a kill at any instant: a clip's samples are appended to the shard and flushed, and only then its line is
appended and flushed. What no line lists does not exist: the next process that writes as WWWW cuts it off. Of two lines for
one clip the higher generation counts, so a changed clip replaces itself; what it leaves behind in its old shard is dead.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

from filelock import FileLock, Timeout

from avatarctl import durable, jsontext
from avatarctl.errors import InputFileError

if TYPE_CHECKING:
    from torch import Tensor

SHARDS, INDEX, ABOUT, NULL, GREY = "shards", "index", "cache.json", "null.safetensors", "grey"
LIST_S = 20.0  # of work that a kill may lose in the middle of a clip
BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True)
class Sample:
    """One window of a clip, encoded."""

    key: str
    tensors: Mapping[str, Tensor]
    meta: Mapping[str, Any]
    thumb_jpg: bytes = b""


@dataclass(frozen=True)
class SampleEntry:
    """Where a sample lies: its safetensors bytes begin at ``offset`` in ``shard`` and are ``size`` long."""

    key: str
    shard: str
    offset: int
    size: int
    sha256: str
    shapes: Mapping[str, tuple[int, ...]]
    meta: Mapping[str, Any]
    thumb: tuple[int, int] = (0, 0)  # offset and size of the picture

    @property
    def bucket(self) -> tuple[tuple[int, ...], ...]:
        """Samples of one bucket fit into one batch: equal latents and speech states (text is padded anyway)."""
        return self.shapes["latents"], self.shapes.get("speech", ())  # pictures have no speech


@dataclass(frozen=True)
class ClipEntry:
    """A clip's line in the index. ``made_of``: hash of content, settings and weights.

    Of two lines for a key the higher ``generation`` counts. ``shard`` is whole up to ``end`` with this clip.
    """

    key: str
    made_of: str
    generation: int
    samples: tuple[SampleEntry, ...]
    shard: int
    end: int
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Begun:
    """Samples of a clip that isn't listed yet; ``shard`` is whole up to ``end`` with them."""

    key: str
    made_of: str
    samples: tuple[SampleEntry, ...]
    shard: int
    end: int


# -- Reading -----------------------------------------------------------------------------------------------------------


class Index:
    """What a cache holds, clip by clip; ``look`` reads what was added since, by whichever process."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.clips: dict[str, ClipEntry] = {}
        self.begun: dict[str, Begun] = {}
        """Clips that a kill left unfinished, by key."""
        self._read: dict[Path, int] = {}
        self.look()

    def look(self) -> None:
        """Read the lines that are new. A torn last line is no line yet."""
        for path in sorted((self.cache / INDEX).glob("*.jsonl")):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._read[path] = file.tell()
                    try:
                        clip = _entry_of(line)
                    except (ValueError, KeyError, TypeError) as error:
                        raise InputFileError(
                            f"{path}: a line of the index is damaged ({error})",
                            f"start over: avatarctl data encode SOURCE --output {self.cache} --force",
                        ) from error
                    if isinstance(clip, Begun):
                        known = self.begun.get(clip.key)
                        more = known.samples if known is not None and known.made_of == clip.made_of else ()
                        self.begun[clip.key] = replace(clip, samples=(*more, *clip.samples))
                        continue
                    self.begun.pop(clip.key, None)
                    if clip.key not in self.clips or clip.generation > self.clips[clip.key].generation:
                        self.clips[clip.key] = clip

    def samples(self) -> list[SampleEntry]:
        """Return every sample, in an order that depends on keys alone."""
        return [sample for key in sorted(self.clips) for sample in self.clips[key].samples]


def read_about(cache: Path) -> dict[str, Any]:
    """Return what a cache was encoded with; raises ``InputFileError`` when it is none."""
    content = durable.unsealed(cache / ABOUT)
    if content is None:
        what = "is damaged" if (cache / ABOUT).exists() else f"got no {ABOUT}, expected a cache of encoded samples"
        raise InputFileError(f"{cache}: {what}", f"avatarctl data encode SOURCE --output {cache}")
    return content


def read_null_text(cache: Path) -> dict[str, Tensor]:
    """Return the text states (L, D) of the prompts "empty" and "negative"."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load((cache / NULL).read_bytes())
    except (FileNotFoundError, SafetensorError) as error:
        raise InputFileError(
            f"{cache / NULL}: missing or damaged ({error})", f"avatarctl data encode SOURCE --output {cache}"
        ) from error


def null_text_file(states: Mapping[str, Tensor]) -> bytes:
    """Return the content of the file that :func:`read_null_text` reads."""
    from safetensors.torch import save

    return save({name: tensor.contiguous() for name, tensor in states.items()})


def read_tensors(cache: Path, entry: SampleEntry, check: bool = True) -> dict[str, Tensor]:
    """Return a sample's tensors; raises ``InputFileError`` when they are not what was written."""
    from safetensors.torch import load

    data = read_bytes(cache, entry.shard, entry.offset, entry.size)
    if data is None or (check and hashlib.sha256(data).hexdigest() != entry.sha256):
        raise InputFileError(
            f"{cache / SHARDS / entry.shard}: sample {entry.key} is damaged",
            f"avatarctl data check {cache} --repair, then encode again",
        )
    return load(data)


def all_finite(data: bytes) -> bool:
    """Return whether all numbers of a sample's safetensors bytes are finite."""
    from safetensors.torch import load

    return all(bool(tensor.isfinite().all()) for tensor in load(data).values())


def read_bytes(cache: Path, shard: str, offset: int, size: int) -> bytes | None:
    """Return a stretch of a shard, or None when the shard is missing or too short."""
    try:
        with (cache / SHARDS / shard).open("rb") as file:
            file.seek(offset)
            data = file.read(size)
    except FileNotFoundError:
        return None
    return data if len(data) == size else None


def _entry_of(line: bytes) -> ClipEntry | Begun:
    content = json.loads(line)
    samples = tuple(
        SampleEntry(
            **{
                **sample,
                "shapes": {name: tuple(shape) for name, shape in sample["shapes"].items()},
                "thumb": tuple(sample["thumb"]),
            }
        )
        for sample in content.pop("samples")
    )
    kind = ClipEntry if "generation" in content else Begun
    return kind(**content, samples=samples)


# -- Writing -----------------------------------------------------------------------------------------------------------


class ShardWriter:
    """Writes clips into a cache, as one of many processes that may do so at once. Use it in a ``with``."""

    def __init__(self, cache: Path, shard_bytes: int = 1 << 30) -> None:
        self.cache, self.shard_bytes = cache, shard_bytes
        self._lock, self._number = self._take_place()
        self._index = cache / INDEX / f"{self._number:04d}.jsonl"
        self._shard, self._end = self._where_to_go_on()
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

    def _where_to_go_on(self) -> tuple[int, int]:
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
        clip = _entry_of(last)
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
        """End the shard as tar readers expect it, with two empty blocks; going on overwrites them."""
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
        """Append one file to the tar; give where its content begins."""
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
