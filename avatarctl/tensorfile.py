"""Write tensors to a safetensors file piece by piece, without a second copy of them in memory, and read what its head says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from torch import Tensor

DTYPES = {
    "torch.float64": "F64",
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.float8_e4m3fn": "F8_E4M3",
    "torch.float8_e5m2": "F8_E5M2",
    "torch.int64": "I64",
    "torch.int32": "I32",
    "torch.int16": "I16",
    "torch.int8": "I8",
    "torch.uint8": "U8",
    "torch.bool": "BOOL",
}
LARGEST_HEAD = 100_000_000  # the format's own limit
LENGTH_BYTES = 8  # the length of the head stands before it
# Where tensors begin: kernels want their operands so, and what lies otherwise in a mapped file has to be copied out of it.
ALIGNMENT = 64


def write_tensors(file: BinaryIO, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> tuple[str, int]:
    """Write tensors and facts in the safetensors format; return the SHA-256 and the size of what was written.

    The same tensors and facts in the same order give the same bytes. The format leaves no gaps between tensors: those whose
    size is a multiple of the alignment come first, so that all of them are aligned, and small odd ones at the end are not.
    """
    import torch

    head: dict[str, object] = {"__metadata__": dict(facts)}
    ordered = sorted(tensors.items(), key=lambda item: item[1].nbytes % ALIGNMENT != 0)
    end = 0
    for name, tensor in ordered:
        begin, end = end, end + tensor.nbytes
        head[name] = {"dtype": DTYPES[str(tensor.dtype)], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(head, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + LENGTH_BYTES) % ALIGNMENT)
    whole = hashlib.sha256()
    size = 0
    for piece in (len(text).to_bytes(LENGTH_BYTES, "little"), text):
        whole.update(piece)
        size += file.write(piece)
    for _, tensor in ordered:
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
        whole.update(data)
        size += file.write(data)
    return whole.hexdigest(), size


def facts_of(path: Path) -> dict[str, str] | None:
    """Return the facts in a safetensors file, without its tensors; None when it is missing or isn't one."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            head = json.loads(file.read(length)) if length < LARGEST_HEAD else None
    except (OSError, ValueError):
        return None
    facts = head.get("__metadata__") if isinstance(head, dict) else None
    return facts if isinstance(facts, dict) else None
