"""Read the sizes recorded in a file of weights, and whether the file is whole, without torch."""

from __future__ import annotations

import json
import math
import shlex
import struct
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from avatarctl.errors import WeightsError
from avatarctl.weights import shards_of

LONGEST_HEADER = 100 << 20  # the format's own limit
TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
# Number formats of safetensors, as whole numbers of their size, and the bits that only NaN and infinite numbers have all set.
EXPONENTS = {
    "F64": ("<u8", 0x7FF0000000000000),
    "F32": ("<u4", 0x7F800000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "F8_E5M2": ("u1", 0x7C),
    "F8_E4M3": ("u1", 0x7F),
}
PIECE = 1 << 22
WEIGHTS_HINT = "fetch the released weights again with `avatarctl fetch`, or name another file"
LORA_HINT = "get the LoRA again from where it came, or name another file"
DIVERGED = "its training went wrong from there: use an earlier checkpoint, or train it again with a lower learning rate"


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


def kind_of(path: Path) -> str | None:
    """Return which network a file says that it is; None where it doesn't say."""
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > LONGEST_HEADER:
            return None
        try:
            kind = json.loads(file.read(length)).get("__metadata__", {}).get("network")
        except (ValueError, AttributeError):
            return None
    return str(kind) if kind else None


class Fault(NamedTuple):
    """What is wrong with a file of weights, and what helps; no ``hint`` where getting the file again does."""

    text: str
    hint: str = ""


def damage(path: Path) -> str:
    """Say what a look at the ends of a file of weights tells is wrong with it, or nothing: its bytes aren't read."""
    return fault.text if (fault := fault_of(path)) else ""


def fault_of(path: Path) -> Fault | None:
    """Return what is wrong with a file of weights, or the first such file of a folder, as far as its ends tell."""
    try:
        if path.is_dir():
            if not any(path.iterdir()):
                return Fault("got an empty folder")
            files = sorted(file for file in path.iterdir() if file.suffix in (".safetensors", *TORCH_SUFFIXES))
            return _first_fault(files)
        if path.name.endswith(".safetensors.index.json"):
            shards = shards_of(path)
            if missing := [file.name for file in shards if not file.exists()]:
                return Fault(f"missing {len(missing)} of {len(shards)} shards: {', '.join(missing)}")
            if fault := _first_fault(shards):
                return fault
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(512)
        return _other_kind(path, start) or _cut_off(path, start, size)
    except OSError as error:
        return Fault(f"can't be read ({error.strerror})")


def _first_fault(files: Sequence[Path]) -> Fault | None:
    found = ((file, fault_of(file)) for file in files)
    return next((Fault(f"{file.name}: {fault.text}", fault.hint) for file, fault in found if fault), None)


def refuse_damaged(path: Path, what: str, hint: str) -> None:
    """Raise ``WeightsError`` for a file that can't be ``what`` it should be; ``hint``: how to get it again."""
    if fault := fault_of(path):
        raise WeightsError(f"{path}: {fault.text}, expected {what}", fault.hint or hint)


def refuse_damaged_lora(path: Path) -> None:
    """Raise ``WeightsError`` for a LoRA file that is damaged, another thing, or holds numbers that aren't finite."""
    refuse_damaged(path, "a LoRA", LORA_HINT)
    if wrong := not_finite(path):
        raise WeightsError(not_finite_text(str(path), wrong), DIVERGED)


def not_finite_text(source: str, names: Sequence[str]) -> str:
    """Return the message for tensors with NaN or infinite numbers in them."""
    more = f" … and {len(names) - 4} more" if len(names) > 4 else ""
    return (
        f"{source}: {len(names)} {'tensors hold' if len(names) > 1 else 'tensor holds'} NaN or infinite numbers "
        f"({', '.join(names[:4])}{more}), "
        "expected finite ones"
    )


def _other_kind(path: Path, start: bytes) -> Fault | None:
    """Tell what else a file is than its ending says, by its first bytes."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not start:
        return Fault("got an empty file")
    if start.startswith(b"version https://git-lfs"):
        return Fault(
            "got a pointer of git-lfs, expected the file itself",
            f"get the file itself: git -C {shlex.quote(str(path.parent))} lfs pull",
        )
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return Fault(
            "got a web page, which was downloaded in place of the file",
            "download the file itself: the link behind the page's download button",
        )
    is_safetensors = start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= LONGEST_HEADER
    is_pickle = start.startswith(b"PK\x03\x04") or (start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05")
    if path.suffix == ".safetensors" and not is_safetensors and len(start) > 8:
        if is_pickle:
            return Fault("got a pickle of torch under the name of another format", _rename(path, ".pt"))
        return Fault("got something that is not a safetensors file, or a damaged one")
    if path.suffix in TORCH_SUFFIXES and not is_pickle:
        if is_safetensors:
            return Fault("got a safetensors file under the name of another format", _rename(path, ".safetensors"))
        return Fault(f"got a file that is not a torch checkpoint (it begins with {start[:4]!r})")
    return None


def _rename(path: Path, suffix: str) -> str:
    return f"rename it: mv {shlex.quote(str(path))} {shlex.quote(str(path.with_suffix(suffix)))}"


def _cut_off(path: Path, start: bytes, size: int) -> Fault | None:
    if path.suffix == ".safetensors":
        text = _short_of(_end_of(path, size), size)
        return Fault(text) if text else None
    if start.startswith(b"PK") and not zipfile.is_zipfile(path):  # torch's format: its index stands at the end
        return Fault(f"got a truncated checkpoint ({size} bytes, the end of the file is missing)")
    return None


def not_finite(path: Path) -> list[str]:
    """Return the tensors of a safetensors file with NaN or infinite numbers, which all of it is read for; no torch.

    Numbers whose exponent has all bits set are NaN or infinite (IEEE 754); of float8_e4m3fn it is one value and its negative.
    Nothing is told of other files: whoever loads them looks.
    """
    if path.suffix != ".safetensors":
        return []
    import numpy as np

    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(length))
    found = []
    for name, entry in entries.items():
        if name == "__metadata__" or entry["dtype"] not in EXPONENTS or 0 in entry["shape"]:
            continue
        kind, mask = EXPONENTS[entry["dtype"]]
        values = np.memmap(path, kind, "r", 8 + length + entry["data_offsets"][0], math.prod(entry["shape"]))
        # In pieces: a mask of everything at once would be as large again.
        if any(bool(((values[i : i + PIECE] & mask) == mask).any()) for i in range(0, len(values), PIECE)):
            found.append(name)
    return found


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
    return f"got a damaged or truncated safetensors file (got {size} bytes, expected {end})" if end != size else ""
