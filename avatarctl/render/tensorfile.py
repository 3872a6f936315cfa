"""Write tensors to a safetensors file piece by piece, without a second copy of them in memory, and read what its head says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from torch import Tensor

DTYPES = {"torch.float32": "F32", "torch.float16": "F16", "torch.bfloat16": "BF16"}
LARGEST_HEAD = 100_000_000  # the format's own limit


def write_tensors(file: BinaryIO, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> tuple[str, int]:
    """Write tensors and facts in the safetensors format; return the SHA-256 and the size of what was written."""
    import torch

    head: dict[str, object] = {"__metadata__": dict(facts)}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.numel() * tensor.element_size()
        head[name] = {"dtype": DTYPES[str(tensor.dtype)], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    whole = hashlib.sha256()
    size = 0
    for piece in (len(text).to_bytes(8, "little"), text):
        whole.update(piece)
        size += file.write(piece)
    for tensor in tensors.values():
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
