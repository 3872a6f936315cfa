"""Cache the text states of prompts between renders.

The text encoder is the largest network by far and is used once per prompt: most renders of a batch never load it. A file
is named by all that decides its bits, and begins with the checksum of the rest; one that doesn't match is made again.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from avatarctl import durable
from avatarctl.networks.placement import Placement
from avatarctl.paths import cache_folder
from avatarctl.weights import WeightFiles, checksum

FOLDER = "texts"
DIGEST_BYTES = hashlib.sha256().digest_size


def places(prompts: Sequence[str], files: WeightFiles, placement: Placement, text_len: int) -> list[Path]:
    """Return the cache file of each prompt's states."""
    device = placement.device
    parts = {
        "weights": checksum(files.text_encoder),
        "tokenizer": checksum(files.tokenizer),
        "text_len": text_len,
        "dtype": str(placement.dtype_of("text encoder")),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "versions": [importlib.metadata.version(name) for name in ("torch", "transformers")],
    }
    names = [hashlib.sha256(durable.to_json({**parts, "prompt": prompt})).hexdigest() for prompt in prompts]
    return [cache_folder() / FOLDER / f"{name}.states" for name in names]


def read(place: Path) -> Tensor | None:
    """Return the states (L, D) that were kept, or None."""
    try:
        content = place.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(content[DIGEST_BYTES:]).digest() != content[:DIGEST_BYTES]:
        return None
    return torch.from_numpy(np.load(io.BytesIO(content[DIGEST_BYTES:]), allow_pickle=False))


def keep(place: Path, states_LD: Tensor, text_len: int) -> None:
    """Keep the states of a prompt; not those of one that may have been cut, whose warning has to come every time."""
    if len(states_LD) >= text_len:
        return
    buffer = io.BytesIO()
    np.save(buffer, states_LD.float().cpu().numpy())
    content = buffer.getvalue()
    try:
        durable.replace(place, hashlib.sha256(content).digest() + content)
    except OSError:
        return  # a cache that can't be written costs time, nothing else
