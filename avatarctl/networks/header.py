"""Takes a safetensors file, gives the sizes that `save_weights` recorded in its header: no torch, no weights read."""

from __future__ import annotations

import json
import math
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
    """Give a network's recorded sizes; None for a file that records none: a pickle, a folder, weights of other programs."""
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
