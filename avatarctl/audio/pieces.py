"""Find the files that a joined file was made of, as byte ranges; and whether a file or a piece of one is cut off."""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

UNKNOWN_SIZES = (0, 0x7FFFF000, 0x7FFFFFFF, 0xFFFFFFFF)  # left in WAV by writers that can't go back to the header
_OGG_PAGE_MAX_BYTES = 65_307  # RFC 3533, section 6
_SYNC_SEARCH_BYTES = 4096  # padding between an MP3's tag and its first frame

Ending = Literal["whole", "cut", "open", "longer"]


@dataclass(frozen=True)
class Piece:
    """Bytes ``begin`` to ``end`` of a file: a whole recording of its own."""

    begin: int
    end: int


def pieces(path: Path, container: str) -> list[Piece]:
    """Return the recordings joined in a file: one for most. ``container`` is ffmpeg's name of the format.

    Known joins: MP3 with a tag in the middle, chained Ogg (RFC 3533), FLAC, WAV and Matroska or WebM byte by byte.
    """
    finders = {"mp3": _joins_mp3, "ogg": _joins_ogg, "flac": _joins_flac, "wav": _joins_wav, "matroska": _joins_ebml}
    finder = finders.get(container.split(",")[0])
    size = path.stat().st_size
    if finder is None or size < 2:
        return [Piece(0, size)]
    found, begin = [], 0
    with path.open("rb") as file:
        for end, following in finder(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)):
            if end > begin:
                found.append(Piece(begin, end))
            begin = following
    return [*found, Piece(begin, size)]


Joins = Iterator[tuple[int, int]]  # where a piece ends, and where the next one begins


def _joins_mp3(data: mmap.mmap) -> Joins:
    for match in re.finditer(rb"ID3[\x02-\x04][^\xff].[\x00-\x7f]{4}|TAG", data, re.DOTALL):
        at = match.start()
        if at == 0:
            continue
        if match[0] == b"TAG":
            if _mpeg_sync(data, at + 128) or data[at + 128 : at + 131] == b"ID3":
                yield at, at + 128
            continue
        size = 0
        for byte in match[0][6:10]:
            size = size << 7 | byte
        after = at + 10 + size + (10 if match[0][5] & 0x10 else 0)
        padding = re.match(rb"\x00*", data[after : after + _SYNC_SEARCH_BYTES])
        assert padding is not None
        if _mpeg_sync(data, after + padding.end()):
            yield at, at


def _mpeg_sync(data: mmap.mmap, at: int) -> bool:
    head = data[at : at + 4]
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return False
    # Layer, bit rate and sample rate that exist.
    return head[1] & 0x06 != 0 and head[1] & 0x18 != 0x08 and head[2] & 0xF0 != 0xF0 and head[2] & 0x0C != 0x0C


def _joins_flac(data: mmap.mmap) -> Joins:
    for match in re.finditer(rb"fLaC[\x00\x80]\x00\x00\x22", data):
        if match.start():
            yield match.start(), match.start()


def _joins_wav(data: mmap.mmap) -> Joins:
    for match in re.finditer(rb"RIFF.{4}WAVEfmt ", data, re.DOTALL):
        if match.start():
            yield match.start(), match.start()


def _joins_ebml(data: mmap.mmap) -> Joins:
    for match in re.finditer(rb"\x1a\x45\xdf\xa3.{1,40}?\x42\x82.(?:webm|matroska)", data, re.DOTALL):
        if match.start():
            yield match.start(), match.start()


def _joins_ogg(data: mmap.mmap) -> Joins:
    at, streams_begin = 0, True
    while data[at : at + 4] == b"OggS" and at + 27 <= len(data):
        begins = bool(data[at + 5] & 2)
        if begins and not streams_begin:
            yield at, at
        streams_begin = begins
        segments = data[at + 26]
        at += 27 + segments + sum(data[at + 27 : at + 27 + segments])


# -- Endings ---------------------------------------------------------------------------------------------------------


def ending(path: Path, piece: Piece) -> Ending:
    """Return what a container says of its end where ffmpeg doesn't look.

    ``cut``: a WAV or AVI that is shorter than it says, an Ogg without its end mark. ``longer``: a WAV that is longer than
    its header says, with samples behind. ``open``: a WAV of undeclared size. ffmpeg takes all of these for whole.
    """
    with path.open("rb") as file:
        size = min(os.fstat(file.fileno()).st_size, piece.end) - piece.begin
        file.seek(piece.begin)
        head = file.read(12)
        if head[:4] == b"OggS":
            file.seek(piece.begin + max(0, size - _OGG_PAGE_MAX_BYTES))
            return "whole" if _ends_ogg(file.read(min(size, _OGG_PAGE_MAX_BYTES))) else "cut"
        if head[:4] != b"RIFF":
            return "whole"
        declared = int.from_bytes(head[4:8], "little")
        if head[8:] != b"WAVE":
            return "cut" if size < declared else "whole"
        at = 12
        while at + 8 <= size:
            file.seek(piece.begin + at)
            name, length = file.read(4), int.from_bytes(file.read(4), "little")
            at += 8
            if name == b"data":
                return _ending_of_data(file, piece.begin, at, length, size, declared)
            at += length + length % 2
        return "cut"


def _ending_of_data(file: BinaryIO, begin: int, at: int, length: int, size: int, declared: int) -> Ending:
    """Judge a WAV by its data chunk: ``length`` bytes from ``at`` of ``size`` in all, of ``declared`` + 8 as it says."""
    if length in UNKNOWN_SIZES:
        return "open"
    end = at + length + length % 2
    if at + length > size:
        return "open" if declared + 8 == size else "cut"  # the whole file is here: only the chunk's size is wrong
    if size - end < 8:
        return "whole"
    file.seek(begin + end)
    name, following = file.read(4), int.from_bytes(file.read(4), "little")
    if name[:3] in (b"ID3", b"TAG"):
        return "whole"
    return "whole" if all(32 <= byte < 127 for byte in name) and end + 8 + following <= size + 1 else "longer"


def _ends_ogg(tail: bytes) -> bool:
    """Return whether the last page is whole and marked as the last (RFC 3533, section 6)."""
    page = tail[max(tail.rfind(b"OggS"), 0) :]
    if len(page) < 27 or not page[5] & 4:
        return False
    lacing = page[27 : 27 + page[26]]
    return len(page) >= 27 + page[26] + sum(lacing)
