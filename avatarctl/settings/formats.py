"""Say what kind of video a file's suffix means: its container, its codecs of pictures and sound, and what can't be."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from avatarctl.errors import UsageError


@dataclass(frozen=True)
class Container:
    """What a container holds: ``codecs`` of pictures (the first is the default), ``sound`` and ``text`` as ffmpeg calls them."""

    muxer: str
    codecs: tuple[str, ...]
    sound: str
    text: str


# Matroska can't say where the padding of AAC ends, Opus can: sound and picture end together.
CONTAINERS = {
    ".mp4": Container("mp4", ("h264", "hevc", "av1"), "aac", "mov_text"),
    ".mov": Container("mov", ("h264", "hevc", "prores"), "aac", "mov_text"),
    ".mkv": Container("matroska", ("h264", "hevc", "vp9", "av1"), "libopus", "subrip"),
    ".webm": Container("webm", ("vp9", "av1"), "libopus", "webvtt"),
}
SUFFIXES = tuple(CONTAINERS)
# Rate factor of each codec where none is asked for: about the same look. ProRes has none.
RATE_FACTORS = {"h264": 18, "hevc": 18, "vp9": 24, "av1": 24, "prores": None}
# Roughly how many bits a pixel takes at that rate factor in a video of a person who speaks. ProRes: its rate at small sizes.
BITS_PER_PIXEL = {"h264": 0.2, "hevc": 0.15, "vp9": 0.15, "av1": 0.15, "prores": 4.1}
# Where a name is made up: the container that each codec is at home in.
HOMES = {"vp9": ".webm", "av1": ".webm", "prores": ".mov"}


@dataclass(frozen=True)
class VideoFormat:
    """How a video is written: container by ``suffix``, codec of the pictures, rate factor (None: the codec has none)."""

    suffix: str
    codec: str
    crf: int | None

    @property
    def container(self) -> Container:
        """The container and what it holds."""
        return CONTAINERS[self.suffix]

    @property
    def sound(self) -> str:
        """The encoder of the sound: uncompressed beside ProRes, as studios expect it."""
        return "pcm_s24le" if self.codec == "prores" else self.container.sound

    def about_bytes(self, size: tuple[int, int], pictures: int) -> int:
        """Return roughly how many bytes so many pictures of a size (width, height in pixels) take, without the sound."""
        return round(BITS_PER_PIXEL[self.codec] * size[0] * size[1] * pictures / 8)

    @property
    def segment_suffix(self) -> str:
        """The suffix of segments: containers with exact time stamps, whatever the video's."""
        return ".mov" if self.codec == "prores" else ".mp4"


def format_of(output: Path, codec: str = "auto", crf: int | None = None) -> VideoFormat:
    """Return how a video of this name is written; raises ``UsageError`` for a suffix or a codec that can't be.

    ``codec`` auto: the container's first one. ``crf`` None: the codec's own.
    """
    container = CONTAINERS.get(output.suffix.lower())
    if container is None:
        raise UsageError(
            f"{output}: got the ending '{output.suffix}', expected {one_of(SUFFIXES)}",
            f"such as --output {shlex.quote(str(output.with_suffix(home_of(codec))))}",
        )
    if codec == "auto":
        codec = container.codecs[0]
    if codec not in container.codecs:
        raise UsageError(
            f"{output}: got the codec {codec}, expected {one_of(container.codecs)} in {output.suffix}",
            f"--codec {container.codecs[0]}, or --output {shlex.quote(str(output.with_suffix(home_of(codec))))}",
        )
    usual = RATE_FACTORS[codec]
    return VideoFormat(output.suffix.lower(), codec, crf if usual is not None and crf is not None else usual)


def home_of(codec: str) -> str:
    """Return the suffix of a video whose name is made up: .mp4, or what the codec is at home in."""
    return HOMES.get(codec, ".mp4")


def with_suffix(name: str, codec: str) -> str:
    """Return the name of a video: as it is where it has a suffix of a video, else with the codec's own added."""
    return name if name.lower().endswith(SUFFIXES) else name + home_of(codec)


def named_after(recording: Path, codec: str) -> Path:
    """Return the video of a recording where nobody names one: its name in the current folder, never the recording itself."""
    video = Path(recording.stem + home_of(codec))
    taken = video.exists() and recording.exists() and video.samefile(recording)
    return Path(recording.stem + "-avatar" + home_of(codec)) if taken else video


def one_of(words: tuple[str, ...]) -> str:
    """Return "a, b or c"."""
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
