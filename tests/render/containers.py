"""Test helper: read MP4 boxes and Matroska elements byte by byte, independently of the program and of ffmpeg."""

from __future__ import annotations

import subprocess
from pathlib import Path

from avatarctl.audio.source import ffmpeg

MASTERS = {
    0x18538067: "Segment",
    0x1654AE6B: "Tracks",
    0xAE: "Track",
    0x1254C367: "Tags",
    0x7373: "Tag",
    0x67C8: "Simple",
}
SEGMENT_UID = 0x73A4


def boxes(data: bytes) -> list[tuple[str, bytes]]:
    """Return (type, content) of the MP4 boxes that follow each other in ``data``."""
    found, at = [], 0
    while at < len(data):
        size, kind, head = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8], 8
        if size == 1:
            size, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        assert size >= head and at + size <= len(data), kind
        found.append((kind.decode("latin-1"), data[at + head : at + size]))
        at += size
    return found


def box(data: bytes, *path: str) -> bytes:
    """Return the content of the first box on a path such as ("moov", "udta")."""
    for kind in path:
        data = next(content for name, content in boxes(data) if name == kind)
    return data


def elements(data: bytes) -> list[tuple[int, bytes]]:
    """Return (id, content) of every Matroska element, depth first; those that hold others come without content."""
    found: list[tuple[int, bytes]] = []
    at = 0
    while at < len(data):
        length = 9 - data[at].bit_length()
        name, at = int.from_bytes(data[at : at + length], "big"), at + length
        length = 9 - data[at].bit_length()
        size, at = int.from_bytes(data[at : at + length], "big") & ((1 << 7 * length) - 1), at + length
        content, at = data[at : at + size], at + size
        found += [(name, b""), *elements(content)] if name in MASTERS else [(name, content)]
    return found


def tags(path: Path) -> dict[str, str]:
    """Return the tags of a Matroska file: TagName (0x45A3) and TagString (0x4487) by turns."""
    texts = [
        content.rstrip(b"\0").decode() for name, content in elements(path.read_bytes()) if name in (0x45A3, 0x4487)
    ]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def languages(path: Path) -> list[str]:
    """Return the language of every track, in order, as the container writes it."""
    data = path.read_bytes()
    if path.suffix in (".mkv", ".webm"):
        return [content.decode() for name, content in elements(data) if name == 0x22B59C]
    codes = []
    for kind, track in boxes(box(data, "moov")):
        if kind == "trak":
            packed = int.from_bytes(box(track, "mdia", "mdhd")[20:22], "big")
            if packed == 0x7FFF:  # QuickTime's "not said"
                codes.append("")
                continue
            assert packed >= 0x400, "a Macintosh code"
            codes.append("".join(chr(0x60 + (packed >> shift & 31)) for shift in (10, 5, 0)))
    return codes


def shown(path: Path, track: int = 0, kind: str = "srt") -> str:
    """Return what a player shows of a track of subtitles."""
    command = [ffmpeg(), "-v", "error", "-i", path, "-map", f"0:s:{track}", "-f", kind, "-"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.decode().replace("\r\n", "\n")


def told(path: Path) -> str:
    """Return what ffmpeg says of a file."""
    return subprocess.run([ffmpeg(), "-hide_banner", "-i", path], capture_output=True, check=False).stderr.decode()
