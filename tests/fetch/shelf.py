"""Fixtures: the names and bytes of files as they are released, and what a command that fetched them left."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fakehub import LARGE, Hub

WAN = "Wan2.1-Fun-V1.1-1.3B-InP"
# Released path -> bytes; the last four are not needed.
SIZES = {
    "StableAvatar-1.3B/transformer3d-square.pt": 3_000_000,
    "StableAvatar-1.3B/transformer3d-rec-vec.pt": 5 * LARGE,
    f"{WAN}/Wan2.1_VAE.pth": 4 * LARGE,
    f"{WAN}/models_t5_umt5-xxl-enc-bf16.pth": 6 * LARGE,
    f"{WAN}/models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth": 3 * LARGE,
    f"{WAN}/google/umt5-xxl/spiece.model": 2 * LARGE,
    f"{WAN}/google/umt5-xxl/tokenizer_config.json": 300,
    "wav2vec2-base-960h/config.json": 200,
    "wav2vec2-base-960h/model.safetensors": 2 * LARGE,
    "Kim_Vocal_2.onnx": 7 * LARGE,
    "wav2vec2-base-960h/pytorch_model.bin": 2 * LARGE,
    f"{WAN}/diffusion_pytorch_model.safetensors": 9 * LARGE,
    "README.md": 50,
    ".gitattributes": 40,
}
NEEDED = list(SIZES)[:9]
SQUARE, SEPARATOR = NEEDED[0], "Kim_Vocal_2.onnx"


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    def json(self) -> dict[str, Any]:
        return json.loads(self.out)

    def data(self) -> dict[str, Any]:
        return self.json()["data"]


Fetch = Callable[..., Ended]


def content(path: str, size: int) -> bytes:
    """Return bytes that depend on the path; those of pickles begin as no torch archive does."""
    if path.endswith(".safetensors"):  # a header that says where the last tensor ends
        header = json.dumps({"a": {"dtype": "U8", "shape": [size - 80], "data_offsets": [0, size - 80]}}).ljust(72)
        return (72).to_bytes(8, "little") + header.encode() + random.Random(path).randbytes(size - 80)
    begin = b"\x80\x02" if path.endswith((".pt", ".pth", ".bin")) else b""  # as pickles begin
    return begin + random.Random(path).randbytes(size - len(begin))


def whole(folder: Path, hub: Hub, paths: list[str]) -> bool:
    """Return whether these files are in the folder with the bytes that the hub serves."""
    return all((folder / path).is_file() and (folder / path).read_bytes() == hub.files[path] for path in paths)


def files_in(folder: Path) -> list[str]:
    """Return the weights in a folder: everything but the record, its lock and what isn't whole yet."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in paths if path.name not in ("fetched.json", ".fetch.lock", ".gitignore"))
