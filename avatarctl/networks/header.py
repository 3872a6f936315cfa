"""Read the sizes recorded in a file of weights, and whether the file is whole, without torch."""

from __future__ import annotations

import json
import math
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LONGEST_HEADER = 100 << 20  # the format's own limit


@dataclass(frozen=True)
class Header:
    """What a network's file says about itself: its ``dims`` as JSON holds them, and how many ``parameters`` it has."""

    dims: dict[str, Any]
    parameters: int


def read_header(path: Path) -> Header | None:
    """Return a network's recorded sizes; None for a file that records none: a pickle, a folder, weights of other programs."""
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > LONGEST_HEADER:
            return None
        try:
            entries = json.loads(file.read(length))
            dims = json.loads(entries.pop("__metadata__")["dims"])
        except (ValueError, KeyError, TypeError, AttributeError):
            return None  # a damaged file is named by whoever loads it
    return Header(dims, sum(math.prod(entry["shape"]) for entry in entries.values()))


def damage(path: Path) -> str:
    """Say what a look at the ends of a file of weights tells is wrong with it, or nothing: its bytes aren't read."""
    try:
        if path.is_dir():
            return "" if any(path.iterdir()) else "got an empty folder"
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(64)
        if not start:
            return "got an empty file"
        if start.startswith(b"version https://git-lfs"):
            return "got a pointer of git-lfs, expected the file itself"
        if path.suffix == ".safetensors":
            return _short_of(_end_of(path, size), size)
        if start.startswith(b"PK") and not zipfile.is_zipfile(path):  # torch's format: its index stands at the end
            return f"got {size} bytes, the end of the file is missing"
    except OSError as error:
        return f"can't be read ({error.strerror})"
    return ""


def _end_of(path: Path, size: int) -> int:
    """Return where the header of a safetensors file says that its last tensor ends; 0 for what is no header."""
    with path.open("rb") as file:
        length = struct.unpack("<Q", file.read(8).ljust(8, b"\xff"))[0]
        if length > size - 8:
            return length + 8
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, TypeError, KeyError, AttributeError, IndexError):
            return 0
    return 8 + length + max(ends, default=0)


def _short_of(end: int, size: int) -> str:
    if not end:
        return "got something that is not a safetensors file"
    return f"got {size} bytes, expected {end}" if end != size else ""
