"""The sets of weights: where each is released, which files are needed, how large they are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from avatarctl.errors import UsageError
from avatarctl.settings.values import HUB, HUB_FOLDER, parse_hub
from avatarctl.weights import VARIANTS, WAN, WAN_14B

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
    below: str = (
        ""  # folder of the weights folder that the repository's files go to; it stands in front of all patterns
    )
    needs: tuple[str, ...] = ()  # sets that are fetched with it
    alone: bool = False  # it is one file, of whatever name

    @property
    def about_bytes(self) -> int:
        """Return roughly how large it is, in bytes."""
        return sum(part.about_bytes for part in self.parts)


def _encoders(folder: str) -> tuple[Part, ...]:
    """Return the networks that stand beside Wan2.1's transformers."""
    return (
        Part("VAE", (f"{folder}/Wan2.1_VAE.pth",), GB // 2, "VAE"),
        Part("text encoder", (f"{folder}/models_t5_umt5-xxl-enc-bf16.pth",), 114 * GB // 10, "TEXT_ENCODER"),
        Part("tokenizer", (f"{folder}/google/umt5-xxl/*",), GB // 50),
        Part(
            "image encoder",
            (f"{folder}/models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth",),
            48 * GB // 10,
            "IMAGE_ENCODER",
        ),
    )


# The same weights stand in the repositories in several formats: one is enough.
SPEECH_ENCODER = (
    Part(
        "speech encoder", (f"{SPEECH}/model.safetensors", f"{SPEECH}/pytorch_model.bin"), 4 * GB // 10, "SPEECH_ENCODER"
    ),
    Part("settings of the speech encoder", (f"{SPEECH}/*.json",), 0),
)
SETS = (
    WeightSet(
        "stableavatar-1.3b",
        "all networks of StableAvatar 1.3B: any size of video",
        "FrancisRing/StableAvatar",
        "main",
        (
            Part("transformer for square videos", (f"{TRANSFORMER}/{VARIANTS['square']}.pt",), 4 * GB, "TRANSFORMER"),
            Part("transformer for other videos", (f"{TRANSFORMER}/{VARIANTS['rec-vec']}.pt",), 4 * GB, "TRANSFORMER"),
            *_encoders(WAN),
            *SPEECH_ENCODER,
        ),
    ),
    WeightSet(
        "wan2.1-fun-1.3b",
        "Wan2.1 of 1.3B without audio layers, to train them from the beginning",
        f"alibaba-pai/{WAN}",
        "main",
        (Part("transformer", (f"{WAN}/diffusion_pytorch_model.safetensors",), 31 * GB // 10), *_encoders(WAN)),
        below=WAN,
        needs=("speech-encoder",),
    ),
    WeightSet(
        "wan2.1-i2v-14b",
        "Wan2.1 of 14B without audio layers, to train them from the beginning",
        f"Wan-AI/{WAN_14B}",
        "main",
        (
            Part("transformer", (f"{WAN_14B}/diffusion_pytorch_model-*-of-*.safetensors",), 656 * GB // 10),
            Part("index of the transformer", (f"{WAN_14B}/diffusion_pytorch_model.safetensors.index.json",), 0),
            *_encoders(WAN_14B),
        ),
        below=WAN_14B,
        needs=("speech-encoder",),
    ),
    WeightSet("speech-encoder", "hears the voice (wav2vec 2.0)", "FrancisRing/StableAvatar", "main", SPEECH_ENCODER),
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
    """Return the set of this name, or what hf://USER/REPO[/FILE] stands for; raises ``UsageError`` with the names there are."""
    if name.startswith(HUB):
        return _of_hub(name)
    names = [each.name for each in SETS]
    if name in names:
        return SETS[names.index(name)]
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean `avatarctl fetch {close[0]}`?" if close else "`avatarctl fetch --list` tells what there is"
    raise UsageError(f"fetch: got '{name}', expected one of {', '.join(names)}", hint)


def _of_hub(name: str) -> WeightSet:
    """Return one file of any repository, such as a LoRA, as a set; it goes below hf/USER/REPO."""
    user, repo, file = parse_hub(name)
    below = f"{HUB_FOLDER}/{user}/{repo}"
    part = Part("weights", (f"{below}/{file}",) if file else (f"{below}/*.safetensors",), 0)
    return WeightSet(
        name, f"{file or 'weights'} of {user}/{repo}", f"{user}/{repo}", "main", (part,), below, alone=not file
    )


def with_needs(names: Iterable[str]) -> list[WeightSet]:
    """Return the sets of these names, and before each those that it needs, every one once."""
    asked = [find_set(name) for name in names]
    return list(dict.fromkeys(each for one in asked for each in (*map(find_set, one.needs), one)))


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
