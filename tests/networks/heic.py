"""Write HEIC pictures for tests: one HEVC picture of ffmpeg's in the boxes of ISO 23008-12."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest


def box(name: bytes, *content: bytes, full: int | None = None) -> bytes:
    body = b"".join(content) if full is None else struct.pack(">I", full) + b"".join(content)
    return struct.pack(">I", 8 + len(body)) + name + body


def find(data: bytes, name: bytes) -> bytes:
    """Return the content of the first box of this name, wherever it lies."""
    at = data.index(name) - 4
    return data[at + 8 : at + int.from_bytes(data[at : at + 4])]


def write_heic(path: Path, rgb: np.ndarray, profile: bytes | None = None, turns: int = 0) -> None:
    """Write an RGB picture as HEIC, full range BT.709, with a profile and quarter turns anticlockwise that viewers make."""
    height, width, _ = rgb.shape
    film = path.with_suffix(".hevc.mp4")
    colours = "colormatrix=bt709:colorprim=bt709:transfer=bt709:range=full:lossless=1:log-level=none"
    convert = "scale=out_color_matrix=bt709:out_range=pc:flags=accurate_rnd+full_chroma_int,format=yuv444p"
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}",
        "-i", "-", "-vf", convert, "-c:v", "libx265", "-x265-params", colours, "-tag:v", "hvc1", "-y", str(film),
    ]  # fmt: skip
    done = subprocess.run(command, input=rgb.astype(np.uint8).tobytes(), capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"this ffmpeg has no libx265: {done.stderr.decode()[:200]}")
    data = film.read_bytes()
    film.unlink()
    picture = find(data, b"mdat")
    # Settings that the encoder puts in front of the picture, as they stand in hvcC.
    properties = [
        box(b"hvcC", find(data, b"hvcC")),
        box(b"ispe", struct.pack(">II", width, height), full=0),
        box(b"colr", b"nclx", struct.pack(">HHHB", 1, 1, 1, 0x80)),
    ]
    if profile is not None:
        properties.append(box(b"colr", b"prof", profile))
    if turns:
        properties.append(box(b"irot", bytes([turns])))
    essential = {1, len(properties)} if turns else {1}
    order = bytes(i | (0x80 if i in essential else 0) for i in range(1, len(properties) + 1))
    ipma = box(b"ipma", struct.pack(">IHB", 1, 1, len(order)), order, full=0)
    entry = box(b"infe", struct.pack(">HH", 1, 0), b"hvc1", b"\0", full=2 << 24)

    def meta(offset: int) -> bytes:
        place = struct.pack(">BBHHHHII", 0x44, 0, 1, 1, 0, 1, offset, len(picture))
        return box(
            b"meta",
            box(b"hdlr", b"\0" * 4, b"pict", b"\0" * 13, full=0),
            box(b"pitm", struct.pack(">H", 1), full=0),
            box(b"iloc", place, full=0),
            box(b"iinf", struct.pack(">H", 1), entry, full=0),
            box(b"iprp", box(b"ipco", *properties), ipma),
            full=0,
        )

    head = box(b"ftyp", b"heic", b"\0" * 4, b"mif1", b"heic")
    path.write_bytes(head + meta(len(head) + len(meta(0)) + 8) + box(b"mdat", picture))
