"""Evaluate a video from its file to its row. READ FIRST in this folder: open, watch, score, say what is remarkable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avatarctl.console import Progress
from avatarctl.errors import InputFileError, UsageError
from avatarctl.evaluation import reference as references
from avatarctl.evaluation.findings import findings
from avatarctl.evaluation.score import Scored, score
from avatarctl.evaluation.source import Source, check_sound, check_video, opened
from avatarctl.evaluation.watch import Watched, watch
from avatarctl.evaluation.windows import borders_beside, borders_every


@dataclass(frozen=True)
class Asked:
    """A video to be evaluated, with what it is compared with.

    ``audio``: a recording instead of the video's own sound. ``face_in``: the part (left, top, right, bottom) of the reference
    in which the face is; ``optional``: a reference without a face is left out, with a note. ``borders``: pictures at which
    windows join, ``window_s``: or how many seconds apart; None for both: a render folder beside the video tells.
    """

    video: Path
    audio: Path | None = None
    reference: Path | None = None
    borders: Sequence[int] | None = None
    window_s: float | None = None
    face_in: tuple[int, int, int, int] | None = None
    optional: bool = False


@dataclass(frozen=True)
class Evaluated:
    """What became of a video: its row, with findings and notes, and what its report shows."""

    row: dict[str, Any]
    scored: Scored
    seen: Watched


def check(asked: Asked) -> None:
    """Look at all files before any work; raises ``InputFileError`` for the first one that can't be used."""
    film = check_video(asked.video)
    if asked.audio is not None:
        check_sound(asked.audio)
    elif film.sound:
        check_sound(asked.video)
    if asked.reference is not None:
        references.face_of(asked.reference)


def evaluate(asked: Asked, show: Progress, device: str = "cpu") -> Evaluated:
    """Return the row of a video, in flat memory however long it is. Raises ``InputFileError`` for what can't be measured."""
    with opened(asked.video, asked.audio) as source:
        total = round(float(source.sound_s * source.fps)) if source.sound_s else 0

        def report(done: int) -> None:
            if done <= total:
                show(done, total, video_s=done / float(source.fps), name=asked.video.name)
            else:
                show(0, 0, stage="measuring", video_s=done / float(source.fps))

        seen = watch(source, device, report)
        if seen.pictures < 2:
            raise InputFileError(
                f"{asked.video}: got a video of {seen.pictures} picture{'s' if seen.pictures != 1 else ''}, expected moving "
                "pictures",
                "name another video",
            )
        reference, notes = _reference(asked, seen)
        scored = score(source, seen, reference, _borders(asked, source, seen))
        scored.notes += notes
    found = findings(scored.row)
    return Evaluated({**scored.row, "findings": found, "notes": scored.notes}, scored, seen)


def _reference(asked: Asked, seen: Watched) -> tuple[references.Reference | None, list[str]]:
    if asked.reference is None:
        return None, []
    try:
        return references.of_picture(asked.reference, seen.face_height, asked.face_in), []
    except InputFileError as error:
        if not asked.optional:
            raise
        return None, [f"{error.message}: the first second of the video is the reference"]


def _borders(asked: Asked, source: Source, seen: Watched) -> Sequence[int]:
    if asked.borders is not None:
        return asked.borders
    if asked.window_s is not None:
        return borders_every(asked.window_s, source.fps, seen.pictures)
    return borders_beside(asked.video, seen.pictures)


def paired(videos: Sequence[Path], others: Sequence[Path], flag: str) -> list[Path | None]:
    """Return what goes with each video: one for all, or one for each in order; raises ``UsageError`` for another number."""
    if not others:
        return [None] * len(videos)
    if len(others) not in (1, len(videos)):
        raise UsageError(
            f"{flag}: got {len(others)} of them for {len(videos)} videos, expected one for all or one for each",
            f"name {flag} once, or {len(videos)} times in the order of the videos",
        )
    return [others[0]] * len(videos) if len(others) == 1 else list(others)
