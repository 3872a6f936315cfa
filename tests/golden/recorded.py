"""Test helper: its tensors, its config and the seeded weights that the recording was made with (from a recorded golden file)."""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

SHIPPED = Path(__file__).parent / "data"
FOLDER = Path(os.environ.get("AVATARCTL_GOLDEN") or SHIPPED)


@dataclass(frozen=True)
class Recorded:
    """``inputs``, ``middle`` and ``outputs`` by name without their prefix, and every hyper-parameter in ``config``."""

    inputs: dict[str, torch.Tensor]
    middle: dict[str, torch.Tensor]
    outputs: dict[str, torch.Tensor]
    config: dict


def golden_files(prefix: str) -> list[Path]:
    """Return the recorded files whose name begins with ``prefix``."""
    return sorted(FOLDER.glob(f"{prefix}*.safetensors"))


def shipped(prefix: str) -> Path:
    """Return the recorded file of that prefix that lies with the tests, whatever folder is compared."""
    return sorted(SHIPPED.glob(f"{prefix}*.safetensors"))[0]


def read(path: Path) -> Recorded:
    """Read a recorded file."""
    groups: dict[str, dict[str, torch.Tensor]] = {"in": {}, "mid": {}, "out": {}}
    with safe_open(path, framework="pt") as file:
        for name in file.keys():
            group, _, rest = name.partition(".")
            groups[group][rest] = file.get_tensor(name)
        config = json.loads(file.metadata()["config"])
    return Recorded(groups["in"], groups["mid"], groups["out"], config)


def seeded_weights(seed: int, shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """Make the weights of a recording: each tensor from the hash of seed and name."""
    weights = {}
    for name, shape in shapes.items():
        bits = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "little")
        uniform = np.random.Generator(np.random.PCG64(bits)).random(shape) * 2 - 1
        if "modulation" in name:
            values = 0.5 * uniform
        elif len(shape) >= 2:
            values = uniform * math.sqrt(3 / np.prod(shape[1:]))
        elif name.endswith("bias"):
            values = 0.1 * uniform
        else:
            values = 1 + 0.2 * uniform
        weights[name] = torch.from_numpy(np.asarray(values, dtype=np.float32))
    return weights
