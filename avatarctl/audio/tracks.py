"""Read from ffmpeg's listing which tracks a file has, and choose the sound track."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from avatarctl.errors import InputFileError, UsageError

_STREAM = re.compile(r"^\[info\] +Stream #0:(\d+)(?:\[0x[0-9a-fA-F]+\])?(?:\((\w+)\))?: (\w+): (\w+)(.*)$")
_DURATION = re.compile(r"^\[info\]   Duration: (?:(\d+):(\d+):(\d+\.\d+)|N/A)(?:, start: (-?\d+\.\d+))?", re.MULTILINE)
# Their time stamps of each track begin anew: ffmpeg counts from the first of those that are read.
_RELATIVE = ("mpegts", "mpeg", "ogg")


@dataclass
class Track:
    """A stream of a file; ``index`` is ffmpeg's, ``start_s`` on the file's own clock (None: not told)."""

    index: int
    kind: str
    codec: str
    language: str
    title: str
    default: bool
    cover: bool
    start_s: Fraction | None


@dataclass
class Listing:
    """What ffmpeg lists of an input."""

    container: str = ""
    duration_s: float | None = None
    start_s: Fraction = Fraction(0)
    tracks: list[Track] = field(default_factory=list)

    @property
    def sounds(self) -> list[Track]:
        """The sound tracks, in order."""
        return [track for track in self.tracks if track.kind == "Audio"]

    @property
    def picture(self) -> Track | None:
        """The first track of moving pictures."""
        return next((track for track in self.tracks if track.kind == "Video" and not track.cover), None)


def listing(log: str) -> Listing:
    """Parse ffmpeg's log (``-v level+info``) up to its first output."""
    found = Listing()
    for line in log.split("\n"):
        if line.startswith(("[info] Output #0", "[info] Stream mapping")):
            break
        if match := re.match(r"\[info\] Input #0, (.*?), from ", line):
            found.container = match[1]
        if match := _DURATION.match(line):
            hours, minutes, seconds, start = match.groups()
            found.start_s = Fraction(start or 0)
            if seconds is not None:
                found.duration_s = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
        if match := _STREAM.match(line):
            index, language, kind, codec, rest = match.groups()
            start = re.search(r", start (-?\d+\.\d+)", rest)
            found.tracks.append(
                Track(
                    int(index),
                    kind,
                    codec,
                    "" if language in (None, "und") else language,
                    "",
                    "(default)" in rest,
                    "(attached pic)" in rest,
                    Fraction(start[1]) if start else None,
                )
            )
        elif found.tracks and (match := re.match(r"\[info\]       title +: (.*)$", line)):
            found.tracks[-1].title = match[1]
    if "[warning] Estimating duration from bitrate" in log:
        found.duration_s = None
    return found


def choose(path: Path, found: Listing, number: int | None) -> Track:
    """Return the sound track ``number`` (from 1), or the default one: marked so, decodable, the first of several.

    Raises UsageError naming the tracks there are, InputFileError for a file without sound.
    """
    sounds = found.sounds
    if not sounds:
        what = ", ".join(f"{track.kind.lower()} {track.codec}" for track in found.tracks)
        raise InputFileError(f"{path}: got a file without sound ({what}), expected a recording", "choose another file")
    if number is not None:
        if not 1 <= number <= len(sounds):
            raise UsageError(
                f"audio track: got {number}, but {path} has {_named(sounds)}",
                "choose one of these: --audio-track 1" if len(sounds) > 1 else "leave --audio-track out",
            )
        return sounds[number - 1]
    decodable = [track for track in sounds if track.codec not in ("none", "unknown")] or sounds
    return next((track for track in decodable if track.default), decodable[0])


def _named(sounds: Sequence[Track]) -> str:
    """Return the sound tracks in words: number, codec, language, title."""
    names = []
    for number, track in enumerate(sounds, 1):
        facts = [track.codec, track.language, f"'{track.title}'" if track.title else "", "default" * track.default]
        names.append(f"{number} ({', '.join(fact for fact in facts if fact)})")
    return f"{len(sounds)} sound track{'s' * (len(sounds) > 1)}: {', '.join(names)}"


def lead_s(found: Listing, track: Track, first_s: Fraction) -> Fraction:
    """Return how long after the first picture the sound begins, in seconds; 0 where it begins with it or before.

    ``first_s``: the time stamp of the first sample, as ffmpeg counts: from the start of the file, of both tracks.
    """
    picture = found.picture
    if picture is None:
        return Fraction(0)
    origin_s = found.start_s
    starts = [start for start in (picture.start_s, track.start_s) if start is not None]
    if found.container.split(",")[0] in _RELATIVE and len(starts) == 2:
        origin_s = min(starts)
    picture_s = origin_s if picture.start_s is None else picture.start_s
    return max(first_s - max(picture_s - origin_s, Fraction(0)), Fraction(0))
