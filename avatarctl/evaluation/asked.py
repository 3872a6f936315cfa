"""What is to be evaluated, and whether its files can be: looked at before anything heavy is loaded. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from avatarctl.audio import decode
from avatarctl.errors import InputFileError, UsageError
from avatarctl.evaluation.source import check_video
from avatarctl.networks.images import read_image

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Asked:
    """A video to be evaluated, with what it is compared with.

    ``audio``: a recording instead of the video's own sound. ``face_in``: the part (left, top, right, bottom) of the reference
    in which the face is; ``optional``: a reference without a face is left out, with a note. ``borders``: pictures at which
    windows join, ``window_s``: or how many seconds apart; None for both: a render folder beside the video tells.
    ``syncnet``: a folder with the weights of SyncNet, which is asked as well.
    """

    video: Path
    audio: Path | None = None
    reference: Path | None = None
    borders: Sequence[int] | None = None
    window_s: float | None = None
    face_in: Box | None = None
    optional: bool = False
    syncnet: Path | None = None


def check(asked: Asked) -> None:
    """Look at the files; raises ``InputFileError`` for the first one that can't be used."""
    film = check_video(asked.video)
    if asked.audio is not None or film.sound:
        decode.probe(asked.audio or asked.video)
    if asked.reference is not None:
        check_picture(asked.reference)
        read_image(asked.reference)


def check_picture(path: Path) -> None:
    """Raise ``InputFileError`` for what is no file."""
    if path.is_dir():
        raise InputFileError(f"{path}: got a folder, expected a picture with a face", "name one picture: --reference")
    if not path.exists():
        raise InputFileError(f"{path}: got no such file, expected a picture with a face", "check the path")


def paired(videos: Sequence[Path], others: Sequence[Path], flag: str) -> list[Path | None]:
    """Return what goes with each video: one for all, or one for each in order; raises ``UsageError`` for another number."""
    if not others:
        return [None] * len(videos)
    if len(others) not in (1, len(videos)):
        raise UsageError(
            f"{flag}: got {len(others)} of them for {len(videos)} video{'s' * (len(videos) > 1)}, expected one for all or "
            "one for each",
            f"name {flag} once" + (f", or {len(videos)} times in the order of the videos" if len(videos) > 1 else ""),
        )
    return [others[0]] * len(videos) if len(others) == 1 else list(others)
