"""Read tensors by name from weights in any stored form, lazily, and write them."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from avatarctl import durable, tensorfile
from avatarctl.errors import WeightsError, some
from avatarctl.networks.header import TORCH_SUFFIXES, refuse_damaged
from avatarctl.networks.header import WEIGHTS_HINT as HINT

# In a folder, the first of these that exists is read (diffusers', transformers' and our own names).
FOLDER_NAMES = (
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin",
    "diffusion_pytorch_model.bin",
)


@dataclass(frozen=True)
class Stored:
    """Tensors by name (read when asked for), where they came from, and what was written beside them."""

    tensors: Mapping[str, Tensor]
    source: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] | None = None  # config.json of the folder


class SafetensorsFiles(Mapping[str, Tensor]):
    """Tensors of one or several safetensors files; each is read from the mapped file when it is asked for."""

    def __init__(self, files: list[Path]) -> None:
        self._where: dict[str, Any] = {}
        self.metadata: dict[str, str] = {}
        for file in files:
            try:
                handle = safe_open(file, framework="pt", device="cpu")
            except SafetensorError as error:
                raise WeightsError(f"{file}: got a damaged or truncated safetensors file ({error})", HINT) from error
            self.metadata.update(handle.metadata() or {})
            self._where.update(dict.fromkeys(handle.keys(), handle))

    def __getitem__(self, name: str) -> Tensor:
        return self._where[name].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


def open_weights(source: str | Path | Mapping[str, Tensor], what: str = "weights", hint: str = HINT) -> Stored:
    """Open a state dict, ``.pt``/``.pth``/``.bin``, ``.safetensors``, a sharded index or a folder of any of them.

    ``what`` is expected, ``hint`` tells how to get it again: released weights and LoRAs of users come from different places.
    Raises ``WeightsError`` for what is missing, empty, truncated or of another format, naming file and finding.
    """
    if isinstance(source, Mapping):
        return Stored(_unwrap(source, "state dict"), "state dict")
    path = Path(source)
    if path.is_dir():
        return _open_folder(path)
    if not path.exists():
        missing = "run `avatarctl fetch` to download them" if hint == HINT else "check the path"
        raise WeightsError(f"{path}: got no such file, expected {what}", missing)
    refuse_damaged(path, what, hint)
    if path.name.endswith(".index.json"):
        return _open_sharded(path)
    if path.suffix == ".safetensors":
        files = SafetensorsFiles([path])
        return Stored(files, str(path), files.metadata)
    if path.suffix in TORCH_SUFFIXES:
        return Stored(_open_torch(path, hint), str(path))
    raise WeightsError(
        f"{path}: got the ending '{path.suffix}', expected .safetensors, .safetensors.index.json or one of "
        f"{', '.join(TORCH_SUFFIXES)}",
        hint,
    )


def open_torch(path: Path, what: str, hint: str) -> Mapping[str, Tensor]:
    """Open a file of torch, whatever its ending; raises ``WeightsError``."""
    refuse_damaged(path, what, hint)
    return _open_torch(path, hint)


def write_weights(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], elsewhere: str) -> None:
    """Write tensors as a safetensors file that appears whole or not at all; the same content gives the same bytes.

    Tensors are written one by one, without a copy of all of them, and aligned, so that they are used where they are mapped.

    Raises ``DeviceError`` for a full disk, ``InputFileError`` (hint: ``elsewhere``) where it can't be written.
    """
    again = "free some space and run the same command again"
    with durable.guarded(path, again, elsewhere), durable.beside(path) as part, part.open("wb") as file:
        tensorfile.write_tensors(file, tensors, dict(sorted(metadata.items())))


def _open_folder(folder: Path) -> Stored:
    config = _read_json(folder / "config.json") if (folder / "config.json").exists() else None
    for name in FOLDER_NAMES:
        if (folder / name).exists():
            stored = open_weights(folder / name)
            return Stored(stored.tensors, stored.source, stored.metadata, config)
    found = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
    raise WeightsError(f"{folder}: got a folder with {found}, expected one of {', '.join(FOLDER_NAMES)}", HINT)


def _open_sharded(index: Path) -> Stored:
    content = _read_json(index)
    where = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(where, dict) or not where:
        raise WeightsError(f"{index}: got JSON without a weight_map, expected a safetensors index", HINT)
    files = sorted({index.parent / shard for shard in where.values()})
    if missing := [file.name for file in files if not file.exists()]:
        raise WeightsError(f"{index}: missing {len(missing)} of {len(files)} shards: {', '.join(missing)}", HINT)
    tensors = SafetensorsFiles(files)
    if lost := sorted(set(where) - set(tensors)):
        raise WeightsError(f"{index}: lists {len(lost)} weights that its shards lack: {some(lost, 12)}", HINT)
    return Stored(tensors, str(index), tensors.metadata)


def _open_torch(path: Path, hint: str) -> Mapping[str, Tensor]:
    with path.open("rb") as file:
        archive = file.read(4) == b"PK\x03\x04"
    try:
        # Only zip archives can be mapped; files of torch before 1.6 are read whole.
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: got a file that is not a plain checkpoint, or is truncated ({str(error).splitlines()[0]})",
            "only tensors are read, never code: convert it to safetensors, or fetch it again",
        ) from error
    except (RuntimeError, EOFError, OSError, LookupError, ValueError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"{path}: got a damaged or truncated checkpoint ({first})", hint) from error
    return _unwrap(loaded, str(path), hint)


def _unwrap(loaded: Any, source: str, hint: str = HINT) -> Mapping[str, Tensor]:
    """Return the tensors of a checkpoint, also when they are nested under ``state_dict``."""
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping):
        raise WeightsError(f"{source}: got a {type(loaded).__name__}, expected names and tensors", hint)
    others = [f"{name} ({type(value).__name__})" for name, value in loaded.items() if not isinstance(value, Tensor)]
    if others:
        raise WeightsError(f"{source}: got entries that are no tensors: {some(others, 12)}", hint)
    if not loaded:
        raise WeightsError(f"{source}: got no tensors, expected weights", hint)
    return loaded


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path}: got broken JSON ({error})", HINT) from error
