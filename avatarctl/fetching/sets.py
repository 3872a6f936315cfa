"""The sets of weights: where each is released, which files are needed, how large they are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from avatarctl.errors import UsageError
from avatarctl.weights import VARIANTS, WAN

GB = 10**9
TRANSFORMER = "StableAvatar-1.3B"
SPEECH = "wav2vec2-base-960h"
PICKLES = (".pt", ".pth", ".bin")


@dataclass(frozen=True)
class Part:
    """Files that serve one purpose: the first pattern that matches any file gives all that it matches.

    ``about_bytes`` is only for telling people beforehand; what a download is checked against comes from the hub.
    """

    role: str
    patterns: tuple[str, ...]
    about_bytes: int
    network: str = ""  # attribute of networks.kinds, where the part can be converted


@dataclass(frozen=True)
class WeightSet:
    """What one `avatarctl fetch NAME` brings."""

    name: str
    what: str
    repo: str
    revision: str
    parts: tuple[Part, ...]

    @property
    def about_bytes(self) -> int:
        """Return roughly how large it is, in bytes."""
        return sum(part.about_bytes for part in self.parts)


SETS = (
    WeightSet(
        "stableavatar-1.3b",
        "all networks of StableAvatar 1.3B: any size of video",
        "FrancisRing/StableAvatar",
        "main",
        (
            Part("transformer for square videos", (f"{TRANSFORMER}/{VARIANTS['square']}.pt",), 4 * GB, "TRANSFORMER"),
            Part("transformer for other videos", (f"{TRANSFORMER}/{VARIANTS['rec-vec']}.pt",), 4 * GB, "TRANSFORMER"),
            Part("VAE", (f"{WAN}/Wan2.1_VAE.pth",), GB // 2, "VAE"),
            Part("text encoder", (f"{WAN}/models_t5_umt5-xxl-enc-bf16.pth",), 114 * GB // 10, "TEXT_ENCODER"),
            Part("tokenizer", (f"{WAN}/google/umt5-xxl/*",), GB // 50),
            Part(
                "image encoder",
                (f"{WAN}/models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth",),
                48 * GB // 10,
                "IMAGE_ENCODER",
            ),
            # The same weights stand there in several formats: one is enough.
            Part(
                "speech encoder",
                (f"{SPEECH}/model.safetensors", f"{SPEECH}/pytorch_model.bin"),
                4 * GB // 10,
                "SPEECH_ENCODER",
            ),
            Part("settings of the speech encoder", (f"{SPEECH}/*.json",), 0),
        ),
    ),
    WeightSet(
        "vocal-separator",
        "takes the voice out of music (MDX-Net Kim Vocal 2)",
        "FrancisRing/StableAvatar",
        "main",
        (Part("vocal separator", ("Kim_Vocal_2.onnx",), GB // 15),),
    ),
)
DEFAULT = SETS[0].name


def find_set(name: str) -> WeightSet:
    """Return the set of this name; raises ``UsageError`` with the names there are."""
    names = [each.name for each in SETS]
    if name in names:
        return SETS[names.index(name)]
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean `avatarctl fetch {close[0]}`?" if close else "`avatarctl fetch --list` tells what there is"
    raise UsageError(f"fetch: got '{name}', expected one of {', '.join(names)}", hint)


def choose(part: Part, paths: Iterable[str]) -> list[str]:
    """Return the files of a part out of relative paths, sorted; none where no pattern matches."""
    known = list(paths)
    for pattern in part.patterns:
        if found := sorted(path for path in known if _matches(path, pattern)):
            return found
    return []


def _matches(path: str, pattern: str) -> bool:
    # A star stands for a name, not for folders.
    return path.count("/") == pattern.count("/") and fnmatchcase(path, pattern)


def part_of(weight_set: WeightSet, path: str) -> Part:
    """Return the part that a relative path belongs to, converted or not."""
    for part in weight_set.parts:
        for pattern in part.patterns:
            if _matches(path, pattern) or (part.network and path == converted(pattern)):
                return part
    raise KeyError(path)


def converted(path: str) -> str:
    """Return the path that a file of pickled weights gets as safetensors: where `weights` and the networks look for it."""
    old = PurePosixPath(path)
    if old.suffix not in PICKLES:
        return path
    if old.name == "pytorch_model.bin":
        return str(old.with_name("model.safetensors"))
    return str(old.with_suffix(".safetensors"))
