"""Read encoded samples from WebDataset tar shards with an index; shard_writer.py writes them, durable clip by clip.

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
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avatarctl import durable
from avatarctl.errors import InputFileError

if TYPE_CHECKING:
    from torch import Tensor

SHARDS, INDEX, ABOUT, NULL, GREY = "shards", "index", "cache.json", "null.safetensors", "grey"
UNIQUE = ("key", "sha256")  # every sample has its own


@dataclass(frozen=True)
class Sample:
    """One window of a clip, encoded."""

    key: str
    tensors: Mapping[str, Tensor]
    meta: Mapping[str, Any]
    thumb_jpg: bytes = b""


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
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
                        clip = read_entry(line)
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


def read_entry(line: bytes) -> ClipEntry | Begun:
    """Return what a line of the index lists. What samples have in common is one object: an index holds millions of them."""
    content = json.loads(line, object_pairs_hook=_shared)
    samples = tuple(
        SampleEntry(**{**sample, "shapes": _shapes(sample["shapes"]), "thumb": tuple(sample["thumb"])})
        for sample in content.pop("samples")
    )
    kind = ClipEntry if "generation" in content else Begun
    return kind(**content, samples=samples)


def _shared(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object whose names and short texts are the same objects wherever they stand."""
    return {
        sys.intern(name): sys.intern(value) if isinstance(value, str) and name not in UNIQUE else value
        for name, value in pairs
    }


_KNOWN: dict[tuple[tuple[str, tuple[int, ...]], ...], Mapping[str, tuple[int, ...]]] = {}


def _shapes(found: Mapping[str, list[int]]) -> Mapping[str, tuple[int, ...]]:
    """Return the shapes of a sample's tensors; samples of a size share theirs."""
    key = tuple((name, tuple(shape)) for name, shape in found.items())
    return _KNOWN.setdefault(key, dict(key))
