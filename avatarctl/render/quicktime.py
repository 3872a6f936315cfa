"""Write the languages of tracks into a QuickTime file: ffmpeg knows the old Macintosh codes alone, which lack most languages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

# Version and flags, two times, time scale and duration stand before the language; version 1 has 64-bit times.
LANGUAGE_AT = {0: 20, 1: 32}


def write_languages(path: Path, first: int, languages: Sequence[str]) -> None:
    """Give the tracks from number ``first`` on their languages (ISO 639-2 codes, packed as QuickTime takes them)."""
    with path.open("r+b") as file:
        end = path.stat().st_size
        moov = next((begin, stop) for kind, begin, stop in _boxes(file, 0, end) if kind == b"moov")
        tracks = [(begin, stop) for kind, begin, stop in _boxes(file, *moov) if kind == b"trak"]
        for track, language in zip(tracks[first:], languages, strict=True):
            begin, _ = _inside(file, _inside(file, track, b"mdia"), b"mdhd")
            file.seek(begin)
            place = begin + LANGUAGE_AT[file.read(1)[0]]
            file.seek(place)
            file.write(packed(language).to_bytes(2, "big"))


def packed(language: str) -> int:
    """Return three letters in five bits each."""
    code = 0
    for letter in language:
        code = code << 5 | ord(letter) - 0x60
    return code


def _inside(file: BinaryIO, span: tuple[int, int], wanted: bytes) -> tuple[int, int]:
    return next((begin, stop) for kind, begin, stop in _boxes(file, *span) if kind == wanted)


def _boxes(file: BinaryIO, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, begin and end of the content of each box."""
    while at < end:
        file.seek(at)
        head = file.read(16)
        size, kind, begin = int.from_bytes(head[:4], "big"), head[4:8], at + 8
        if size == 1:
            size, begin = int.from_bytes(head[8:], "big"), at + 16
        yield kind, begin, at + size
        at += size
