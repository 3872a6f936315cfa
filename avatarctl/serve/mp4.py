"""Cut MP4 files into fragments that players append as they come: an initial part, and parts of one moof and mdat; no encoding.

Boxes are those of ISO/IEC 14496-12. What is read was written by our own ffmpeg: one sample description per track, no pictures
that are shown in another order than stored.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from avatarctl.errors import InputFileError

CONTAINERS = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts")
SYNC, NO_SYNC = 0x02000000, 0x01010000
AAC_SAMPLES = 1024


@dataclass(frozen=True)
class Sample:
    """A stored picture or packet of sound: where it lies, and whether a player can begin with it."""

    offset: int
    size: int
    sync: bool


@dataclass(frozen=True)
class Track:
    """A track of a file: ``description`` is its whole stsd box; ``skip``: packets before its time 0 (an encoder's run-up)."""

    kind: str
    rate: int
    description: bytes
    width: int
    height: int
    samples: tuple[Sample, ...]
    skip: int = 0


def read_tracks(path: Path) -> dict[str, Track]:
    """Return the tracks of a file by kind: vide, soun. Raises ``InputFileError`` for what is no MP4."""
    with path.open("rb") as file:
        while len(head := file.read(16)) >= 8:
            size, kind = struct.unpack(">I4s", head[:8])
            begin = 8
            if size == 1:
                size, begin = struct.unpack(">Q", head[8:16])[0], 16
            if kind == b"moov":
                moov = head[begin:] + file.read(size - 16)
                return {track.kind: track for track in _tracks(moov)}
            if size < 8:
                break
            file.seek(size - len(head), 1)
    raise InputFileError(f"{path}: got a file without a movie in it, expected an MP4")


def _boxes(data: bytes, begin: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    while begin + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, begin)
        yield kind, begin + 8, begin + size
        begin += max(size, 8)


def _tracks(moov: bytes) -> Iterator[Track]:
    for kind, begin, end in _boxes(moov, 0, len(moov)):
        if kind == b"trak":
            found: dict[bytes, tuple[int, int]] = {}
            _collect(moov, begin, end, found)
            handler = moov[found[b"hdlr"][0] + 8 : found[b"hdlr"][0] + 12].decode("latin-1")
            if handler in ("vide", "soun"):
                yield _track(moov, handler, found)


def _collect(data: bytes, begin: int, end: int, found: dict[bytes, tuple[int, int]]) -> None:
    for kind, inner, after in _boxes(data, begin, end):
        found[kind] = (inner, after)
        if kind in CONTAINERS:
            _collect(data, inner, after, found)


def _track(data: bytes, kind: str, found: dict[bytes, tuple[int, int]]) -> Track:
    place = found[b"mdhd"][0]
    (rate,) = struct.unpack_from(">I", data, place + (20 if data[place] == 1 else 12))
    begin, end = found[b"stsd"]
    width, height = (struct.unpack_from(">HH", data, begin + 8 + 32)) if kind == "vide" else (0, 0)
    skip = 0
    if kind == "soun" and b"elst" in found:
        place = found[b"elst"][0]
        (media_time,) = struct.unpack_from(
            ">q" if data[place] == 1 else ">i", data, place + (16 if data[place] else 12)
        )
        skip = max(media_time, 0) // AAC_SAMPLES
    return Track(kind, rate, data[begin - 8 : end], width, height, tuple(_samples(data, found)), skip)


def _samples(data: bytes, found: dict[bytes, tuple[int, int]]) -> Iterator[Sample]:
    place = found[b"stsz"][0]
    same, count = struct.unpack_from(">II", data, place + 4)
    sizes = (same,) * count if same else struct.unpack_from(f">{count}I", data, place + 12)
    wide = b"co64" in found
    place = found[b"co64" if wide else b"stco"][0]
    (chunks,) = struct.unpack_from(">I", data, place + 4)
    offsets = struct.unpack_from(f">{chunks}{'Q' if wide else 'I'}", data, place + 8)
    place = found[b"stsc"][0]
    (runs,) = struct.unpack_from(">I", data, place + 4)
    table = [struct.unpack_from(">III", data, place + 8 + 12 * run) for run in range(runs)]
    syncs: set[int] | None = None
    if b"stss" in found:
        place = found[b"stss"][0]
        (number,) = struct.unpack_from(">I", data, place + 4)
        syncs = set(struct.unpack_from(f">{number}I", data, place + 8))
    index = 0
    for run, (first, per_chunk, _) in enumerate(table):
        last = table[run + 1][0] - 1 if run + 1 < runs else chunks
        for chunk in range(first - 1, last):
            offset = offsets[chunk]
            for _ in range(per_chunk):
                if index == count:
                    return
                yield Sample(offset, sizes[index], syncs is None or index + 1 in syncs)
                offset += sizes[index]
                index += 1


# -- What players get ---------------------------------------------------------------------------------------------------


def box(kind: bytes, *parts: bytes) -> bytes:
    """Return a box."""
    content = b"".join(parts)
    return struct.pack(">I4s", 8 + len(content), kind) + content


def _full(kind: bytes, version: int, flags: int, *parts: bytes) -> bytes:
    return box(kind, struct.pack(">I", version << 24 | flags), *parts)


MATRIX = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)


def init(tracks: Sequence[Track], timescales: Sequence[int]) -> bytes:
    """Return the initial part: what the tracks are, without a sample."""
    traks = [_trak(number, *pair) for number, pair in enumerate(zip(tracks, timescales, strict=True), 1)]
    extends = [_full(b"trex", 0, 0, struct.pack(">5I", number, 1, 0, 0, 0)) for number in range(1, len(tracks) + 1)]
    header = struct.pack(">IIIIIHHQ", 0, 0, 1000, 0, 0x10000, 0x0100, 0, 0) + MATRIX
    header += bytes(24) + struct.pack(">I", len(tracks) + 1)
    moov = box(b"moov", _full(b"mvhd", 0, 0, header), *traks, box(b"mvex", *extends))
    return box(b"ftyp", b"iso6", struct.pack(">I", 1), b"iso6cmfcmp41") + moov


def _trak(number: int, track: Track, timescale: int) -> bytes:
    sound = track.kind == "soun"
    head = struct.pack(">IIIII", 0, 0, number, 0, 0) + bytes(8) + struct.pack(">HHHH", 0, 0, 0x0100 if sound else 0, 0)
    head += MATRIX + struct.pack(">II", track.width << 16, track.height << 16)
    empty = [_full(name, 0, 0, bytes(4)) for name in (b"stts", b"stsc", b"stco")]
    table = box(b"stbl", track.description, *empty, _full(b"stsz", 0, 0, bytes(8)))
    about = _full(b"smhd", 0, 0, bytes(4)) if sound else _full(b"vmhd", 0, 1, bytes(8))
    where = box(b"dinf", _full(b"dref", 0, 0, struct.pack(">I", 1), _full(b"url ", 0, 1)))
    handler = _full(b"hdlr", 0, 0, bytes(4), track.kind.encode(), bytes(12), b"\0")
    media = _full(b"mdhd", 0, 0, struct.pack(">IIIIHH", 0, 0, timescale, 0, 0x55C4, 0))
    return box(b"trak", _full(b"tkhd", 0, 7, head), box(b"mdia", media, handler, box(b"minf", about, where, table)))


@dataclass(frozen=True)
class Piece:
    """The samples of one track in a fragment: the file they lie in, when they begin, and how long each is."""

    number: int
    path: Path
    samples: Sequence[Sample]
    begin: int
    duration: int


def fragment(sequence: int, pieces: Sequence[Piece]) -> bytes:
    """Return a fragment with samples of several tracks, as they lie in their files."""
    pieces = [piece for piece in pieces if piece.samples]
    content = [_content(piece) for piece in pieces]
    size = len(_moof(sequence, pieces, [0] * len(pieces)))
    offsets, place = [], size + 8
    for data in content:
        offsets.append(place)
        place += len(data)
    return _moof(sequence, pieces, offsets) + box(b"mdat", *content)


def _moof(sequence: int, pieces: Sequence[Piece], offsets: Sequence[int]) -> bytes:
    trafs = []
    for piece, offset in zip(pieces, offsets, strict=True):
        head = _full(b"tfhd", 0, 0x020008, struct.pack(">II", piece.number, piece.duration))
        when = _full(b"tfdt", 1, 0, struct.pack(">Q", piece.begin))
        rows = b"".join(struct.pack(">II", one.size, SYNC if one.sync else NO_SYNC) for one in piece.samples)
        run = _full(b"trun", 0, 0x000601, struct.pack(">Ii", len(piece.samples), offset), rows)
        trafs.append(box(b"traf", head, when, run))
    return box(b"moof", _full(b"mfhd", 0, 0, struct.pack(">I", sequence)), *trafs)


def _content(piece: Piece) -> bytes:
    """Return the bytes of samples, read in as few stretches as they lie in."""
    parts = []
    with piece.path.open("rb") as file:
        begin = end = piece.samples[0].offset
        for sample in piece.samples:
            if sample.offset != end:
                file.seek(begin)
                parts.append(file.read(end - begin))
                begin = sample.offset
            end = sample.offset + sample.size
        file.seek(begin)
        parts.append(file.read(end - begin))
    return b"".join(parts)


def timescale_of(fps: Fraction) -> tuple[int, int]:
    """Return units per second in which a picture has a whole number of units, and that number."""
    return fps.numerator * 1000, fps.denominator * 1000


def codec_of(track: Track) -> str:
    """Return what a track holds as browsers name it (RFC 6381): avc1.64001f, hvc1.…, av01.…, vp09.…, mp4a.40.2."""
    data = track.description
    entry = data[20:24]
    if track.kind == "soun":
        return "mp4a.40.2" if entry == b"mp4a" else entry.decode("latin-1")
    inner: dict[bytes, bytes] = {kind: data[begin:end] for kind, begin, end in _boxes(data, 16 + 86, len(data))}
    if b"avcC" in inner:
        return f"avc1.{inner[b'avcC'][1:4].hex()}"
    if b"hvcC" in inner:
        return _hevc(inner[b"hvcC"])
    if b"av1C" in inner:
        one, two = inner[b"av1C"][1:3]
        bits = 8 if not two & 0x40 else 12 if two & 0x20 else 10
        return f"av01.{one >> 5}.{one & 31:02d}{'H' if two & 0x80 else 'M'}.{bits:02d}"
    if b"vpcC" in inner:
        profile, level, bits = inner[b"vpcC"][4:7]
        return f"vp09.{profile:02d}.{level:02d}.{bits >> 4:02d}"
    return entry.decode("latin-1")


def _hevc(about: bytes) -> str:
    first = about[1]
    space, tier, profile = "ABC"[(first >> 6) - 1] if first >> 6 else "", "H" if first & 0x20 else "L", first & 31
    (compatible,) = struct.unpack_from(">I", about, 2)
    turned = int(f"{compatible:032b}"[::-1], 2)
    constraints = about[6:12].rstrip(b"\0")
    parts = [f"hvc1.{space}{profile}.{turned:X}.{tier}{about[12]}", *(f"{byte:X}" for byte in constraints)]
    return ".".join(parts)
