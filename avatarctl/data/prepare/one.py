"""Prepare one file of footage: look at it, decide, plan its clips, write them; every step that was done is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from avatarctl import durable
from avatarctl.audio.silero import Ear
from avatarctl.audio.track import Through
from avatarctl.data.clips import Film, film_of, told_seconds
from avatarctl.data.guards import reading
from avatarctl.data.prepare.captions import caption_of
from avatarctl.data.prepare.crop import Cut, cut_of
from avatarctl.data.prepare.judge import Row, judge
from avatarctl.data.prepare.records import Home, Record
from avatarctl.data.prepare.scan import COLUMNS, FPS, VERSION, Scan, Voice, scan_pictures, scan_voice
from avatarctl.data.prepare.sources import Source
from avatarctl.data.prepare.write import Order, write_clips
from avatarctl.data.sound import decoded_track
from avatarctl.errors import InputFileError
from avatarctl.settings.prepare import PrepareSettings

RATE = float(FPS)
NO_SOUND_DB = -90.0  # level of pictures beyond the end of the sound

Looking = Callable[[float], None]


@dataclass(frozen=True)
class Tools:
    """What every file is prepared with."""

    home: Home
    settings: PrepareSettings
    ear: Ear
    through: Through | None
    device: str
    dry_run: bool


def prepare_one(tools: Tools, source: Source, copy_of: str | None, looking: Looking) -> Record:
    """Look at a file that nobody else has, decide, write its clips; return its record.

    ``copy_of``: the file that it is a copy of. What can't be read makes a record that says so.
    """
    home, old = tools.home, tools.home.record(source.key)
    record = Record(source.name, str(source.path.absolute()), "", "", copy_of=copy_of)
    film: Film | None = None
    try:
        with reading(source.path):
            record.stamp, record.sha256 = source.stamp(), durable.digest(source.path) or ""
            if copy_of is None:
                film = film_of(source.path)
        same = old is not None and old.sha256 == record.sha256 and not old.is_copy
        if old is not None and same and film is not None and not tools.dry_run:
            record.rows, record.notes = old.rows, old.notes  # only its clips are missing
        else:
            rows, scan = _looked_at(tools, source, film, copy_of, record, looking)
            record.rows = [_planned(tools, source, number, row, scan) for number, row in enumerate(rows, start=1)]
        if tools.dry_run:
            return record
        if old is not None and old.rows != record.rows:
            home.remove_clips(old)
        home.refuse_foreign(record, old)
        home.write(source.key, record)  # from here on the names of its clips are ours
        if film is not None and any(row["clip"] for row in record.rows):
            _write(tools, source, film, record)
    except InputFileError as problem:
        if old is not None:
            home.remove_clips(old)
        row = _whole(source, "damaged", problem.message)
        record.rows = [_planned(tools, source, 1, row, None)]
        if tools.dry_run:
            return record
    record.done = True
    home.write(source.key, record)
    return record


def _looked_at(
    tools: Tools, source: Source, film: Film | None, copy_of: str | None, record: Record, looking: Looking
) -> tuple[list[Row], Scan | None]:
    """Return the candidates of a file, and what was seen of it."""
    if film is None:
        return [_whole(source, "duplicate", f"the same content as {copy_of}")], None
    if film.colours.note:
        record.notes.append(film.colours.note)
    if not film.sound:
        return [_whole(source, "silent", "it has no sound")], None
    voice = scan_voice(source.path, tools.ear, tools.through)
    if not voice.speech_T.any():
        return [Row(0, len(voice.level_T), reason="silent", detail="nobody speaks")], None
    scan = _scanned(tools, source, film, record.sha256, lambda count: looking(min(count / len(voice.level_T), 1.0)))
    count = len(scan.shots_T)
    if count < tools.settings.min_s * RATE:
        return [Row(0, count, reason="short", detail=f"{count / RATE:.2f} s of pictures")], scan
    return judge(scan, _fitted(voice, count), tools.settings), scan


def _whole(source: Source, reason: str, detail: str) -> Row:
    """Return a candidate that is a whole file, which isn't looked at."""
    return Row(0, round(told_seconds(source.path) * RATE), reason=reason, detail=detail)


def _scanned(tools: Tools, source: Source, film: Film, sha256: str, looked: Callable[[int], None]) -> Scan:
    """Return what is seen in a file; it is looked at unless that was done before."""
    longest_px = tools.settings.scan_px
    recipe = {"version": VERSION, "columns": COLUMNS, "sha256": sha256, "scan_px": longest_px}
    scan = tools.home.scan(source.key, recipe)
    if scan is not None:
        return scan
    for found in scan_pictures(film, longest_px, tools.device):
        if isinstance(found, Scan):
            scan = found
        else:
            looked(found)
    assert scan is not None, "the scan comes last"
    durable.replace(tools.home.scan_path(source.key), scan.to_bytes(recipe))
    return scan


def _fitted(voice: Voice, count: int) -> Voice:
    """Return the voice of exactly so many pictures."""
    lacking = max(count - len(voice.level_T), 0)
    level_T = np.pad(voice.level_T[:count], (0, lacking), constant_values=NO_SOUND_DB)
    return Voice(level_T, np.pad(voice.speech_T[:count], (0, lacking)))


def _planned(tools: Tools, source: Source, number: int, row: Row, scan: Scan | None) -> dict[str, Any]:
    """Return a candidate as it is kept in the record, with the name and the crop of its clip."""
    kept = row.reason is None
    cut = cut_of(row.head, scan.bars, tools.settings) if kept and row.head is not None and scan is not None else None
    return {
        "start_s": round(row.start / RATE, 3),
        "end_s": round(row.end / RATE, 3),
        "track": row.track,
        "box": None if row.box is None else [round(edge, 1) for edge in row.box],
        "kept": kept,
        "reason": row.reason,
        "detail": row.detail,
        "scores": {name: round(value, 4) for name, value in row.scores.items()},
        "warnings": row.warnings,
        "clip": f"{source.name}-{number:03d}.mp4" if kept and not tools.dry_run else None,
        "sound_moved_s": round(row.moved_s, 4),
        "crop": None if cut is None else list(cut.box),
        "size": None if cut is None else list(cut.size),
    }


def _write(tools: Tools, source: Source, film: Film, record: Record) -> None:
    orders = [_order(tools.home.clips, row) for row in record.rows if row["clip"]]
    if all(order.done for order in orders):
        return
    with reading(source.path), decoded_track(source.path, tools.through) as sound:
        caption = caption_of(source.path, tools.settings)
        for _ in write_clips(film, sound, orders, tools.settings, caption, tools.device):
            pass


def _order(clips: Path, row: dict[str, Any]) -> Order:
    start, end = (round(Fraction(str(row[name])) * FPS) for name in ("start_s", "end_s"))
    (x0, y0, x1, y1), (width, height) = row["crop"], row["size"]
    cut = Cut((x0, y0, x1, y1), (width, height))
    return Order(start, end, cut, tuple(row["box"]), row["sound_moved_s"], clips / row["clip"])
