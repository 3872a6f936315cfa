"""Evaluate a video from its file to its row. READ FIRST in this folder: open, watch, score, say what is remarkable."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from avatarctl.errors import InputFileError
from avatarctl.evaluation import reference as references
from avatarctl.evaluation.asked import Asked
from avatarctl.evaluation.findings import findings
from avatarctl.evaluation.score import Scored, score
from avatarctl.evaluation.source import Source, opened
from avatarctl.evaluation.syncnet import score_syncnet
from avatarctl.evaluation.watch import Watched, watch
from avatarctl.evaluation.windows import borders_beside, borders_every
from avatarctl.networks.syncnet import load_syncnet
from avatarctl.progress import Progress


@dataclass(frozen=True)
class Evaluated:
    """What became of a video: its row, with findings and notes, and what its report shows."""

    row: dict[str, Any]
    scored: Scored
    seen: Watched


def evaluate(asked: Asked, show: Progress, device: str = "cpu") -> Evaluated:
    """Return the row of a video, in flat memory however long it is. Raises ``InputFileError`` for what can't be measured."""
    began = time.monotonic()
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
        if asked.syncnet is not None:
            show(0, 0, stage="asking SyncNet")
            row, why_not = score_syncnet(source, scored.seat, load_syncnet(asked.syncnet, device), device)
            scored.row["syncnet"], scored.notes = row, [*scored.notes, *why_not]
    wall_s = time.monotonic() - began
    speed = {"wall_s": round(wall_s, 2), "pictures_per_s": round(seen.pictures / wall_s, 1)}
    return Evaluated({**scored.row, **speed, "findings": findings(scored.row), "notes": scored.notes}, scored, seen)


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
