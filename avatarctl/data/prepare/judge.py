"""Decide from what was seen and heard of a file which pieces of which faces are worth a clip, with every score and reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from avatarctl.data.prepare.pieces import Span, pieces
from avatarctl.data.prepare.scan import FPS, Scan, Voice
from avatarctl.faces.lips import following
from avatarctl.settings.prepare import PrepareSettings

REASONS = (
    *("no_face", "small_face", "several_faces", "other_person", "silent", "not_speaking", "out_of_sync", "short"),
    *("blurred", "duplicate", "damaged"),
)
RATE = float(FPS)
SEEN_S = 0.5  # a face that is there for less is no candidate
FINE_LAG_S = 0.08  # around the track's own lag, in which a piece's lips may follow
SEARCH_S = 0.4  # beyond max_shift_s an offset is looked for, so that it can be told
CLEARLY = 0.15  # by how much more than another face's a face's lips follow, when both do
SAME_TIME = 0.5  # share of a piece in which another face is there
AT_WORST = 0.9  # quantile of a piece's distances to the track's person
BRIGHT, DARK = 225.0, 35.0  # mean light of a face beyond which a warning is given
BACKGROUND_DB = 18.0  # by how much the voice should exceed what is heard in its pauses
QUIET_DB = -45.0


@dataclass
class Row:
    """A candidate: a piece of a track, or of a whole file. ``lag_s``: by how much its sound is moved when it is cut out."""

    start: int
    end: int
    track: int | None = None
    box: tuple[float, ...] | None = None
    head: tuple[float, ...] | None = None
    reason: str | None = None
    detail: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    moved_s: float = 0.0


@dataclass(frozen=True)
class LipSync:
    """How lips follow a voice: correlation, lag (positive: after the sound), and what 19 of 20 shifted voices don't reach."""

    correlation: float
    lag_s: float
    shifted_q95: float

    @property
    def margin(self) -> float:
        """Return by how much the correlation exceeds chance."""
        return self.correlation - self.shifted_q95


def lip_sync(
    opening_T: NDArray[np.float64], voice: Voice, start: int, most_lag_s: float, around_s: float = 0.0
) -> LipSync:
    """Return how a mouth, from picture ``start`` of a file on, follows its voice; a mouth that never moves doesn't."""
    around = round(around_s * RATE)
    found = following(opening_T, voice.level_T, RATE, start=start, around=around, most_lag_s=most_lag_s, least_s=1.0)
    return LipSync(found.correlation, found.lag_s, found.shifted_q95) if found else LipSync(0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Track:
    """A face in a shot: the numbers of its pictures, and what was noted of each."""

    number: int
    shot: int
    pictures: NDArray[np.int64]
    rows: NDArray[np.bool_]
    sync: LipSync | None

    @property
    def span(self) -> Span:
        """Return its first picture, and the one after its last."""
        return int(self.pictures[0]), int(self.pictures[-1]) + 1


def judge(scan: Scan, voice: Voice, settings: PrepareSettings) -> list[Row]:
    """Return every candidate of a file, ordered by time."""
    count = len(scan.shots_T)
    tracks = list(_tracks(scan, voice, settings))
    if not any(len(track.pictures) >= SEEN_S * RATE for track in tracks):
        return [Row(0, count, reason="no_face", detail="no face stays for half a second")]
    found = []
    for track in tracks:
        if len(track.pictures) >= SEEN_S * RATE:
            found += _judge_track(track, tracks, scan, voice, settings)
    return sorted(found, key=lambda row: (row.start, row.track or 0))


def _tracks(scan: Scan, voice: Voice, settings: PrepareSettings) -> Iterator[Track]:
    """Return the tracks without what is amid a dissolve, each with how its lips follow the voice altogether."""
    numbers = scan.column("track")
    clear = (scan.column("mixed") == 0) & (scan.column("shot") >= 0)
    for number in np.unique(numbers):
        rows = (numbers == number) & clear
        # Points between two looks lead nowhere at the ends.
        sure = np.flatnonzero(rows & (scan.column("bridged") == 0))
        if not len(sure):
            continue
        rows[: sure[0]] = rows[sure[-1] + 1 :] = False
        pictures = scan.column("picture", rows).astype(np.int64)
        shot = int(scan.column("shot", rows)[0])
        sync = None
        if len(pictures) >= settings.min_s * RATE:
            opening_T = _every_picture(pictures, scan.column("opening", rows))
            most_s = settings.max_shift_s + SEARCH_S
            sync = lip_sync(opening_T, voice, int(pictures[0]), most_s)
        yield Track(int(number), shot, pictures, rows, sync)


def _every_picture(pictures: NDArray[np.int64], values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return a value for every picture between the first and the last."""
    return np.interp(np.arange(pictures[0], pictures[-1] + 1), pictures, values.astype(np.float64))


# -- A track ---------------------------------------------------------------------------------------------------------


def _judge_track(track: Track, tracks: list[Track], scan: Scan, voice: Voice, settings: PrepareSettings) -> list[Row]:
    begin, end = track.span
    whole = _row(track, (begin, end), scan)
    if end - begin < settings.min_s * RATE:
        return [_dropped(whole, "short", f"the face is there for {(end - begin) / RATE:.1f} s")]
    if whole.scores["face_px"] < settings.min_face_px:
        return [_dropped(whole, "small_face", f"the face is {whole.scores['face_px']:.0f} pixels high")]
    lag = _lag(track.sync)
    # The voice as it would be with the sound moved to the lips.
    moved = Voice(np.roll(voice.level_T, lag), np.roll(voice.speech_T, lag))
    person = _person(track, scan)
    found = []
    for span in pieces(track.span, moved.speech_T, moved.level_T, RATE, settings.min_piece_s, settings.max_piece_s):
        row = _row(track, span, scan)
        _judge_piece(row, span, person, track, tracks, scan, moved, voice, settings)
        found.append(row)
    if all(row.reason == "silent" for row in found):
        return [_dropped(whole, "silent", "nobody speaks")]
    return found


def _lag(sync: LipSync | None) -> int:
    return round(sync.lag_s * RATE) if sync is not None and sync.margin > 0 else 0


def _judge_piece(
    row: Row,
    span: Span,
    person: NDArray[np.float32] | None,
    track: Track,
    tracks: list[Track],
    scan: Scan,
    moved: Voice,
    voice: Voice,
    settings: PrepareSettings,
) -> None:
    """Fill in a piece's scores, and the first reason to drop it."""
    begin, end = span
    scores = row.scores
    level_T, speech_T = moved.level_T[begin:end], moved.speech_T[begin:end]
    scores["speech_share"] = float(speech_T.mean())
    scores["identity"] = _identity(track, span, person, scan)
    sync = _piece_sync(track, span, scan, voice, settings)
    scores["lips_correlation"], scores["lips_shifted_q95"] = sync.correlation, sync.shifted_q95
    scores["lag_s"] = sync.lag_s
    _warn(row, level_T, speech_T)
    if end - begin < settings.min_s * RATE:
        _dropped(row, "short", f"{(end - begin) / RATE:.1f} s between pauses")
    elif scores["presence"] < settings.min_presence and scores["sharpness"] >= settings.min_sharpness:
        # A soft face is seldom sure to be one: that it is soft is why.
        _dropped(row, "short", f"the face is hidden in {1 - scores['presence']:.0%} of the pictures")
    if scores["speech_share"] < settings.min_speech:
        _dropped(row, "silent", f"somebody speaks in {scores['speech_share']:.0%} of it")
    elif row.reason:
        return
    elif scores["identity"] > settings.max_identity:
        _dropped(row, "other_person", f"distance {scores['identity']:.2f} to the person of this track")
    elif scores["sharpness"] < settings.min_sharpness:
        _dropped(row, "blurred", f"sharpness {scores['sharpness']:.2f}")
    elif problem := _who_speaks(row, track, span, sync, tracks, scan, voice, settings):
        _dropped(row, *problem)
    elif abs(sync.lag_s) > settings.max_shift_s + 0.5 / RATE:
        _dropped(
            row,
            "out_of_sync",
            f"the lips come {abs(sync.lag_s):.2f} s {'after' if sync.lag_s > 0 else 'before'} the sound",
        )
    elif abs(sync.lag_s) > settings.least_shift_s:
        row.moved_s = sync.lag_s


def _piece_sync(track: Track, span: Span, scan: Scan, voice: Voice, settings: PrepareSettings) -> LipSync:
    """Return how lips follow the voice in a piece: at the track's lag, where the whole track has a clear one."""
    begin, end = span
    opening_T = _every_picture(track.pictures, scan.column("opening", track.rows))[begin - track.span[0] :][
        : end - begin
    ]
    if track.sync is None or track.sync.margin <= 0:
        return lip_sync(opening_T, voice, begin, settings.max_shift_s + SEARCH_S)
    near = lip_sync(opening_T, voice, begin, FINE_LAG_S, track.sync.lag_s)
    return replace(near, lag_s=track.sync.lag_s)


def _who_speaks(
    row: Row,
    track: Track,
    span: Span,
    sync: LipSync,
    tracks: list[Track],
    scan: Scan,
    voice: Voice,
    settings: PrepareSettings,
) -> tuple[str, str] | None:
    """Return why a piece isn't one of this face speaking, or None when it is."""
    others = []
    for other in tracks:
        common = (max(span[0], other.span[0]), min(span[1], other.span[1]))
        if other is not track and other.shot == track.shot and common[1] - common[0] >= SAME_TIME * (span[1] - span[0]):
            others.append(_piece_sync(other, common, scan, voice, settings))
    row.scores["faces"] = 1 + len(others)
    best = max(others, key=lambda each: each.margin, default=None)
    if best is not None:
        row.scores["others_correlation"] = best.correlation
    follows, clear = _follows(sync, settings), best is None or sync.correlation > best.correlation + CLEARLY
    if follows and (best is None or not _follows(best, settings) or clear):
        return None
    if follows:
        return "several_faces", "the lips of two faces follow the voice"
    told = f"lips follow the voice with {sync.correlation:.2f}, chance with {sync.shifted_q95:.2f}"
    if best is not None and not _follows(best, settings) and sync.margin > 0 and best.margin > 0:
        return "several_faces", f"none of {row.scores['faces']:.0f} faces clearly speaks; {told}"
    return "not_speaking", told


def _follows(sync: LipSync, settings: PrepareSettings) -> bool:
    return sync.correlation >= settings.min_sync and sync.margin >= settings.min_margin


# -- Scores ----------------------------------------------------------------------------------------------------------


def _row(track: Track, span: Span, scan: Scan) -> Row:
    """Return a piece with what is known of its pictures."""
    inside = np.flatnonzero(track.rows)[(track.pictures >= span[0]) & (track.pictures < span[1])]
    which = np.zeros(len(track.rows), np.bool_)
    which[inside] = True
    box = np.median(np.stack([scan.column(name, which) for name in ("x0", "y0", "x1", "y1")]), axis=1)
    heads = np.stack([scan.column(f"head_{name}", which) for name in ("x0", "y0", "x1", "y1")], axis=1)
    sharp = scan.column("sharpness", which)
    seen = scan.column("presence", which) > 0.5
    sharp_median = _median(sharp)
    scores = {
        "face_px": float(np.median(scan.column("y1", which) - scan.column("y0", which))),
        "presence": float(seen.sum() / max(span[1] - span[0], 1)),
        "sharpness": sharp_median,
        "motion_blur": float((sharp < 0.6 * sharp_median).mean()),
        "light": _median(scan.column("light", which)),
        "turned": _median(np.abs(scan.column("yaw", which))),
    }
    return Row(*span, track.number, tuple(map(float, box)), _head(heads), scores=scores)


def _median(values: NDArray[np.float32]) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else 0.0


def _head(heads_T4: NDArray[np.float32]) -> tuple[float, ...]:
    """Return the box that holds the head in nearly all pictures: it moves within a crop that stays."""
    low, high = np.quantile(heads_T4[:, :2], 0.05, axis=0), np.quantile(heads_T4[:, 2:], 0.95, axis=0)
    return tuple(map(float, (*low, *high)))


def _person(track: Track, scan: Scan) -> NDArray[np.float32] | None:
    """Return the look of a track's person that is nearest to all its looks."""
    known = scan.identities[(scan.identity_rows[:, 1] == track.number)]
    if not len(known):
        return None
    some = known[:: max(len(known) // 200, 1)]
    apart = np.linalg.norm(some[:, None] - some[None], axis=2)
    return some[int(np.median(apart, axis=1).argmin())]


def _identity(track: Track, span: Span, person: NDArray[np.float32] | None, scan: Scan) -> float:
    """Return how unlike the track's person a piece's looks are, all but the worst tenth."""
    numbers, of_track = scan.identity_rows[:, 0], scan.identity_rows[:, 1] == track.number
    known = scan.identities[of_track & (numbers >= span[0]) & (numbers < span[1])]
    if person is None or not len(known):
        return 0.0
    return float(np.quantile(np.linalg.norm(known - person, axis=1), AT_WORST))


def _warn(row: Row, level_T: NDArray[np.float64], speech_T: NDArray[np.bool_]) -> None:
    loud = float(np.quantile(level_T, 0.9)) if len(level_T) else -100.0
    background = float(np.median(level_T[~speech_T])) if (~speech_T).any() else float(np.quantile(level_T, 0.02))
    row.scores["level_db"], row.scores["over_background_db"] = loud, loud - background
    if loud - background < BACKGROUND_DB:
        row.warnings.append("music or noise under the voice")
    if loud < QUIET_DB:
        row.warnings.append("quiet sound")
    light = row.scores["light"]
    if not DARK <= light <= BRIGHT:
        row.warnings.append("dark face" if light < DARK else "overexposed face")


def _dropped(row: Row, reason: str, detail: str) -> Row:
    row.reason, row.detail = reason, detail
    return row
