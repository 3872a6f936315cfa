"""Find the file of every network in a weights folder, and the checksums of files; opens no weights."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from avatarctl import console
from avatarctl.errors import UsageError, WeightsError
from avatarctl.paths import cache_folder, weights_folder, weights_place

WAN = "Wan2.1-Fun-V1.1-1.3B-InP"
WAN_14B = "Wan2.1-I2V-14B-480P"
VARIANTS = {"square": "transformer3d-square", "rec-vec": "transformer3d-rec-vec"}
Variant = Literal["square", "rec-vec", "wan2.1-fun-1.3b", "wan2.1-i2v-14b"]
# Transformers of Wan2.1, which have no audio layers: as released, in one file or in several with an index.
WITHOUT_AUDIO = {
    "wan2.1-fun-1.3b": (f"{WAN}/diffusion_pytorch_model.safetensors",),
    "wan2.1-i2v-14b": (
        f"{WAN_14B}/diffusion_pytorch_model.safetensors",
        f"{WAN_14B}/diffusion_pytorch_model.safetensors.index.json",
    ),
}


def _released(ours: str, pickled: str) -> tuple[str, ...]:
    """Return where a network may lie: our own bundle first, then released folders (converted files before pickles)."""
    return ours, *(
        f"{folder}/{stem}" for folder in (WAN_14B, WAN) for stem in (f"{pickled}.safetensors", f"{pickled}.pth")
    )


PLACES = {
    "vae": _released("vae.safetensors", "Wan2.1_VAE"),
    "text encoder": _released("text_encoder.safetensors", "models_t5_umt5-xxl-enc-bf16"),
    "tokenizer": ("tokenizer", f"{WAN_14B}/google/umt5-xxl", f"{WAN}/google/umt5-xxl"),
    "image encoder": _released("image_encoder.safetensors", "models_clip_open-clip-xlm-roberta-large-vit-huge-14"),
    "speech encoder": ("speech_encoder.safetensors", "wav2vec2-base-960h"),
}
INDEX = ".safetensors.index.json"
SMALL = 1 << 24  # bytes; files below are read each time
SEPARATOR = "Kim_Vocal_2.onnx"
EMBEDDED_AVATAR = "--preset puppet"
HINT = "download them with `avatarctl fetch stableavatar-1.3b`, name their folder with --weights, or use the embedded avatar: "


@dataclass(frozen=True)
class WeightFiles:
    """The file or folder of every network that a render needs."""

    folder: Path
    transformer: Path
    vae: Path
    text_encoder: Path
    tokenizer: Path
    image_encoder: Path
    speech_encoder: Path

    def by_role(self) -> dict[str, Path]:
        """Return role -> path."""
        names = ("transformer", "vae", "text_encoder", "tokenizer", "image_encoder", "speech_encoder")
        return {name.replace("_", " "): getattr(self, name) for name in names}


def find_weights(
    folder: Path | None,
    size: tuple[int, int],
    variant: Literal["auto"] | Variant,
    transformer: Path | None = None,
    embedded: str = EMBEDDED_AVATAR,
) -> WeightFiles:
    """Find every network's weights; raises ``WeightsError`` that lists what is missing and how to get it.

    ``transformer``: taken instead of the folder's. ``embedded``: what uses the embedded avatar's instead.
    """
    folder = weights_place(folder) or weights_folder()
    if not folder.is_dir():
        raise WeightsError(f"{folder}: got no such folder, expected the weights of StableAvatar", HINT + embedded)
    if variant == "auto":
        variant = "square" if size[0] == size[1] else "rec-vec"
    places = {"transformer": transformer_places(variant), **PLACES}
    if variant != "wan2.1-i2v-14b":  # the networks beside it are the same, and elsewhere not needed
        places = {
            role: tuple(sorted(names, key=lambda name: name.startswith(WAN_14B))) for role, names in places.items()
        }
    found: dict[str, Path] = {} if transformer is None else {"transformer": transformer}
    missing = []
    for role, names in places.items():
        if role in found:
            continue
        existing = [folder / place for place in names if (folder / place).exists()]
        if existing:
            found[role.replace(" ", "_")] = existing[0]
        else:
            shown = [name for name in names if name.startswith(WAN_14B) == (variant == "wan2.1-i2v-14b")] or names
            missing.append(f"{role} ({shown[-1]})")
    if missing:
        raise WeightsError(
            f"{folder}: missing {len(missing)} of {len(places)} weights: {', '.join(missing)}", HINT + embedded
        )
    return WeightFiles(folder, **found)


def find_transformer(folder: Path | None, variant: Variant) -> Path:
    """Find the transformer alone, which is all that training needs; raises ``WeightsError``.

    A folder that holds one itself, as the hub's repositories and diffusers do, is one too.
    """
    folder = weights_place(folder) or weights_folder()
    places = [folder / place for place in transformer_places(variant)]
    if variant in WITHOUT_AUDIO:
        places += [folder / Path(place).name for place in WITHOUT_AUDIO[variant]]
    for place in places:
        if place.exists():
            return place
    hint = f"avatarctl fetch {variant}" if variant in WITHOUT_AUDIO else HINT + "--weights puppet"
    missing = transformer_places(variant)[-1]
    raise WeightsError(f"{folder}: got no transformer ({missing})", hint)


def find_separator(folder: Path | None) -> Path:
    """Find the network that takes a voice out of music: beside the others, else where `fetch` puts it; ``WeightsError``."""
    folders = [place for place in (weights_place(folder), weights_folder()) if place is not None]
    for place in folders:
        if (place / SEPARATOR).is_file():
            return place / SEPARATOR
    raise WeightsError(
        f"{folders[-1]}: got no {SEPARATOR}, which --separate-vocals needs",
        "download it with `avatarctl fetch vocal-separator`",
    )


def usable_separator(weights: Path | None) -> Path:
    """Return the network that takes the voice out of music; raises an error where it is missing or can't run."""
    path = find_separator(weights)
    if importlib.util.find_spec("onnxruntime") is None:
        raise UsageError(
            "separate_vocals: got no onnxruntime, which runs the separator",
            "pip install 'avatarctl[vocals]', or leave out --separate-vocals",
        )
    return path


def transformer_places(variant: Variant) -> tuple[str, ...]:
    """Return where in a folder of weights the transformer is looked for: our own bundle, then the released files."""
    if variant in WITHOUT_AUDIO:
        return WITHOUT_AUDIO[variant]
    name = f"StableAvatar-1.3B/{VARIANTS[variant]}"
    return "transformer.safetensors", f"{name}.safetensors", f"{name}.pt"


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file, or of a folder's files with their names; remembered by size and time of change.

    The index of weights in several files stands for them all.
    """
    if path.is_dir() or path.name.endswith(INDEX):
        whole = hashlib.sha256()
        folder = path if path.is_dir() else path.parent
        files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else shards_of(path)
        for file in sorted(files):
            whole.update(os.fsencode(f"{file.relative_to(folder).as_posix()} {checksum(file)}\n"))
        return whole.hexdigest()
    key, size = _key_of(path)
    # Small files are hashed faster than looked up, and the reader of a changed one is never told an old sum.
    if size < SMALL:
        return _hash(path)
    known = _read_cache()
    if key not in known:
        console.note(f"reading {path.name} for its checksum (once)")
        known[key] = _hash(path)
        _write_cache(known)
    return known[key]


def shards_of(index: Path) -> list[Path]:
    """Return the files that an index of weights names; none where it isn't readable: opening it says why."""
    try:
        where = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return [index.parent / name for name in sorted(set(where.values()))]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return []


def remember_checksum(path: Path, sha256: str) -> None:
    """Note the SHA-256 of a file that was just written or read whole, so that it isn't read for it again."""
    key, size = _key_of(path)
    if size >= SMALL:
        _write_cache({**_read_cache(), key: sha256})


def _key_of(path: Path) -> tuple[str, int]:
    """Return what a file's checksum is remembered by, and its size."""
    status = path.stat()
    return f"{path.resolve()}:{status.st_size}:{status.st_mtime_ns}", status.st_size


def fingerprint(paths: Iterable[tuple[str, Path]]) -> dict[str, dict[str, Any]]:
    """Return name -> path and SHA-256, for a manifest."""
    return {name: {"path": str(path.resolve()), "sha256": checksum(path)} for name, path in paths}


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_cache() -> dict[str, str]:
    try:
        content = json.loads((cache_folder() / "checksums.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write_cache(known: dict[str, str]) -> None:
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f".checksums.{os.getpid()}.part"
        part.write_text(json.dumps(known), encoding="utf-8")
        part.replace(folder / "checksums.json")
    except OSError:
        return  # a cache that can't be written costs time, nothing else
