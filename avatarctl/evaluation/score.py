"""Make the row of a video out of what was watched and heard: face, lips, identity, picture, sound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avatarctl.audio.envelope import envelope
from avatarctl.audio.silero import ear_of, speaks_by
from avatarctl.audio.track import SAMPLE_RATE_HZ
from avatarctl.evaluation.lips import MINUTE_S, score_lips, speaker
from avatarctl.evaluation.looks import score_looks
from avatarctl.evaluation.numbers import mean, rounded, share, slope
from avatarctl.evaluation.persons import Persons, distances
from avatarctl.evaluation.reference import FIRST_S, Reference
from avatarctl.evaluation.source import Source
from avatarctl.evaluation.trend import by_second, trend
from avatarctl.evaluation.watch import COLOURS, Seat, Watched
from avatarctl.faces.landmarks import PRESENT

Curve = NDArray[np.float64]

MEASURED_BY = "faces by BlazeFace, lips by Face Mesh, identity by dlib's ResNet"


@dataclass
class Scored:
    """The row of a video as ``--json`` has it, curves and borders for its report, notes on what couldn't be measured.

    Curves are per picture (opening, level_db, steps), per second (identity, colour, sharpness) or by lag. ``seat``: the face
    that was measured.
    """

    row: dict[str, Any]
    seat: Seat
    curves: dict[str, Curve] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    borders: Sequence[int] = ()


def score(source: Source, seen: Watched, reference: Reference | None, borders: Sequence[int]) -> Scored:
    """Return what is measured of a video. ``borders``: pictures at which one window takes over from another."""
    fps, duration_s = float(seen.fps), float(seen.pictures / source.fps)
    levels, spoken = _heard(source, seen)
    seat, follows = speaker(seen.seats, levels, fps)
    persons = Persons()
    who = [persons.of(numbers) for numbers in seat.who]
    reference = reference or _first_second(seen, seat)
    lips = score_lips(seen, seat, levels, spoken, follows)
    looks = score_looks(seen, seat, reference, _stretches(seen, seat, who), borders)
    away = _distances(seen, seat, reference)
    row = {
        "path": str(source.path),
        "duration_s": round(duration_s, 3),
        "pictures": seen.pictures,
        "fps": round(fps, 3),
        "reference": reference.name if reference else None,
        "measured_by": MEASURED_BY,
        "face": _face(source, seen, seat),
        "lips": lips.row,
        "identity": _identity(away),
        "picture": looks.row,
        "sound": {
            "duration_s": rounded(source.sound_s, 3),
            "offset_s": rounded(source.offset_s),
            "length_difference_s": rounded(None if source.sound_s is None else source.sound_s - duration_s, 3),
        },
    }
    curves = {**lips.curves, **looks.curves, **({} if away is None else {"identity": away})}
    return Scored(row, seat, curves, [*source.notes, *lips.notes], borders)


def _heard(source: Source, seen: Watched) -> tuple[Curve | None, NDArray[np.bool_]]:
    """Return the level of the voice in the pictures that have sound, and in which of all pictures somebody speaks."""
    spoken = np.zeros(seen.pictures, bool)
    if source.waveform is None:
        return None, spoken
    count = min(round(len(source.waveform) * source.fps / SAMPLE_RATE_HZ), seen.pictures)
    levels = envelope(source.waveform, count, source.fps)
    spoken[:count] = speaks_by(ear_of("auto"), source.waveform, levels, source.fps)
    return levels, spoken


def _face(source: Source, seen: Watched, seat: Seat) -> dict[str, Any]:
    presence, height = seat.curve("presence"), seat.curve("height")
    there = np.isfinite(height)
    everybody = Persons()
    for each in seen.seats:
        for numbers in each.who:
            everybody.of(numbers)
    return {
        "share": share(seen.crowd > 0),
        "height_px": rounded(float(np.nanmedian(height)) * source.scale, 1) if there.any() else None,
        "persons": everybody.count,
        "most_at_once": int(seen.crowd.max(initial=0)),
        "unsure_share": share(presence[there] <= PRESENT) if there.any() else None,
    }


def _distances(seen: Watched, seat: Seat, reference: Reference | None) -> Curve | None:
    """Return the distance of the face to the reference in each second."""
    if reference is None or reference.who is None or not seat.who:
        return None
    away = np.full(seen.pictures, np.nan)
    away[np.array(seat.who_at)] = distances(seat.who, reference.who)
    return by_second(away, float(seen.fps))


def _identity(away_S: Curve | None) -> dict[str, Any]:
    names = ("mean", "worst", "first_minute", "last_minute", "slope_per_minute", "slope_interval")
    found: dict[str, Any] = dict.fromkeys(names)
    if away_S is None:
        return found
    found.update(mean=mean(away_S), worst=rounded(float(np.nanmax(away_S))))
    if len(away_S) >= 2 * MINUTE_S:
        found.update(first_minute=mean(away_S[:MINUTE_S]), last_minute=mean(away_S[-MINUTE_S:]))
    found["slope_per_minute"], found["slope_interval"] = slope(trend(away_S))
    return found


def _first_second(seen: Watched, seat: Seat) -> Reference | None:
    """Return the first second in which the face is seen: without a picture, the rest is compared with it."""
    sharp = seat.curve("sharpness")
    there = np.flatnonzero(np.isfinite(sharp))
    if not len(there) or not seat.who:
        return None
    begin, end = there[0], there[0] + max(round(FIRST_S * float(seen.fps)), 1)
    first = [numbers for at, numbers in zip(seat.who_at, seat.who, strict=True) if at < end] or seat.who[:1]
    lightness, a, b = (float(np.nanmean(seat.curve(name)[begin:end])) for name in COLOURS)
    who = np.median(np.stack(first), axis=0).astype(np.float32)
    return Reference("its first second", who, float(np.nanmean(sharp[begin:end])), (lightness, a, b))


def _stretches(seen: Watched, seat: Seat, who: Sequence[int]) -> NDArray[np.int64]:
    """Return a number for each second: the same while one person is seen in one shot."""
    person = np.zeros(seen.pictures, np.int64)
    for place, (at, each) in enumerate(zip(seat.who_at, who, strict=True)):
        person[at if place else 0 :] = each
    both = seen.shots * (max(who, default=0) + 1) + person
    firsts = (np.arange(max(int(seen.pictures / seen.fps), 1)) * float(seen.fps)).astype(int)
    return both[np.minimum(firsts, max(seen.pictures - 1, 0))]
