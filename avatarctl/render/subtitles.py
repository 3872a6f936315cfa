"""Read subtitles (SRT, VTT), cut and move them to the part of the recording that is used, and lay them into the folder."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from avatarctl.errors import InputFileError
from avatarctl.render.folder import RenderFolder
from avatarctl.render.ours import SUBTITLES
from avatarctl.settings.render import RenderJob
from avatarctl.textfiles import read_text

TIME = r"(?:(\d{1,4}):)?([0-5]?\d):([0-5]\d)[.,](\d{1,3})"
TIMES = re.compile(rf"\s*{TIME}\s*-->\s*{TIME}(?:\s+(.*))?\s*")
INLINE = re.compile(r"<((?:\d{2,}:)?\d{2}:\d{2}\.\d{3})>")  # when a word of a VTT cue is spoken
BLOCKS = ("NOTE", "STYLE", "REGION")


@dataclass(frozen=True)
class Cue:
    """One subtitle: from ``start_ms`` to ``end_ms``; ``place`` is how VTT places it, and nothing in SRT."""

    start_ms: int
    end_ms: int
    text: str
    place: str = ""


@dataclass(frozen=True)
class Subtitles:
    """The subtitles of a file, in order; ``kind`` srt or vtt."""

    kind: str
    cues: tuple[Cue, ...]


@dataclass(frozen=True)
class SoftTrack:
    """A track of subtitles for the video: its language (ISO 639-2) and its file in the render folder."""

    language: str
    path: Path
    kind: str


def read_subtitles(path: Path) -> Subtitles:
    """Read an SRT or VTT file; raises ``InputFileError`` naming the line of a mistake, or the encoding that can't be read."""
    if not path.is_file():
        raise InputFileError(f"{path}: got no such file, expected subtitles", "check --subtitles")
    lines = read_text(path, InputFileError).split("\n")
    is_vtt = re.match(r"WEBVTT(\s|$)", lines[0]) is not None
    if path.suffix.lower() == ".vtt" and not is_vtt:
        raise _mistake(path, 1, lines[0], "WEBVTT", "write WEBVTT and an empty line before the subtitles")
    begin = _header(path, lines) if is_vtt else 0
    cues = _cues(path, lines, begin, is_vtt)
    if not cues:
        raise InputFileError(
            f"{path}: got no subtitles, expected SRT or VTT with times such as 00:00:01,000 --> 00:00:02,500",
            "leave it out, or choose another file",
        )
    return Subtitles("vtt" if is_vtt else "srt", tuple(sorted(cues, key=lambda cue: (cue.start_ms, cue.end_ms))))


def _header(path: Path, lines: Sequence[str]) -> int:
    """Return the line after the header of a VTT file."""
    end = next((number for number, line in enumerate(lines) if not line.strip()), len(lines))
    for number, line in enumerate(lines[:end], 1):
        if "-->" in line:
            raise _mistake(path, number, line, "an empty line after WEBVTT", "write one there")
        if line.startswith("X-TIMESTAMP-MAP"):
            raise _mistake(
                path, number, line, "times of the recording", "export the subtitles as one file, not as a stream"
            )
    return end


def _cues(path: Path, lines: Sequence[str], at: int, is_vtt: bool) -> list[Cue]:
    found = []
    while at < len(lines):
        if not lines[at].strip():
            at += 1
            continue
        end = next((number for number in range(at, len(lines)) if not lines[number].strip()), len(lines))
        block, first, at = lines[at:end], at + 1, end
        if is_vtt and block[0].split(maxsplit=1)[0] in BLOCKS and "-->" not in block[0]:
            continue
        named = "-->" not in block[0] and (is_vtt or block[0].strip().isdigit())
        if named and len(block) == 1:
            raise _mistake(path, first, block[0], "times in the line after it", HOW)
        found.append(_cue(path, block[named:], first + named))
    return found


HOW = "write times as 00:00:01,000 --> 00:00:02,500; an empty line ends each subtitle and stands nowhere in it"


def _cue(path: Path, block: Sequence[str], number: int) -> Cue:
    """Return the cue of a block of lines that begins with its times, in line ``number``."""
    times = TIMES.fullmatch(block[0])
    if times is None:
        raise _mistake(path, number, block[0], "times such as 00:00:01,000 --> 00:00:02,500", HOW)
    start_ms, end_ms = (_ms(times.groups()[part : part + 4]) for part in (0, 4))
    if end_ms <= start_ms:
        raise _mistake(path, number, block[0], "an end after the start", "correct the times")
    for offset, line in enumerate(block[1:], 1):
        if "-->" in line:
            raise _mistake(path, number + offset, line, "an empty line before the next subtitle", HOW)
    return Cue(start_ms, end_ms, "\n".join(block[1:]), (times[9] or "").strip())


def _ms(parts: Sequence[str | None]) -> int:
    hours, minutes, seconds, fraction = (part or "0" for part in parts)
    return ((int(hours) * 60 + int(minutes)) * 60 + int(seconds)) * 1000 + int(fraction.ljust(3, "0"))


def _mistake(path: Path, number: int, line: str, expected: str, hint: str) -> InputFileError:
    shown = line.strip()[:60]
    return InputFileError(f"{path}, line {number}: got '{shown}', expected {expected}", hint)


# -- The part that is used -------------------------------------------------------------------------------------------


def part_of(subtitles: Subtitles, start_s: Fraction, length_s: Fraction) -> Subtitles:
    """Return what is seen from ``start_s`` on for ``length_s``, on the clock of the video."""
    shift, length = round(start_s * 1000), round(length_s * 1000)
    cues = []
    for cue in subtitles.cues:
        start, end = max(cue.start_ms - shift, 0), min(cue.end_ms - shift, length)
        if start < end:
            text = INLINE.sub(lambda time, base=shift: f"<{_moved(time[1], base)}>", cue.text)  # type: ignore[misc]
            cues.append(Cue(start, end, text, cue.place))
    return Subtitles(subtitles.kind, tuple(cues))


def _moved(time: str, shift: int) -> str:
    match = re.fullmatch(TIME, time)
    assert match is not None
    return _clock(max(_ms(match.groups()) - shift, 0), ".")


def to_text(subtitles: Subtitles) -> str:
    """Return the content of an SRT or VTT file."""
    is_vtt = subtitles.kind == "vtt"
    parts = ["WEBVTT\n"] if is_vtt else []
    for number, cue in enumerate(subtitles.cues, 1):
        mark = "." if is_vtt else ","
        times = f"{_clock(cue.start_ms, mark)} --> {_clock(cue.end_ms, mark)}"
        head = f"{times} {cue.place}".rstrip() if is_vtt else f"{number}\n{times}"
        parts.append(f"{head}\n{cue.text}\n")
    return "\n".join(parts)


def _clock(ms: int, mark: str) -> str:
    return f"{ms // 3_600_000:02d}:{ms // 60_000 % 60:02d}:{ms // 1000 % 60:02d}{mark}{ms % 1000:03d}"


def lay_out(job: RenderJob, folder: RenderFolder, start_s: Fraction, length_s: Fraction) -> list[SoftTrack]:
    """Write the part of each file of subtitles that is used into the folder, once; return the tracks.

    The files of the user are only read, and not again when the video is done, hours later.
    """
    tracks = []
    for number, (language, path) in enumerate(job.subtitles):
        whole = read_subtitles(path)
        used = part_of(whole, start_s, length_s)
        lost = len(whole.cues) - len(used.cues)
        if lost and (job.render.duration_s is None or not used.cues):
            warnings.warn(
                f"{path}: {lost} of {len(whole.cues)} subtitles lie outside the part of the recording that is used",
                stacklevel=2,
            )
        name = f"{SUBTITLES}/{number}.{used.kind}"
        if used.cues:
            if not folder.valid(name):
                folder.write(name, to_text(used).encode())
            tracks.append(SoftTrack(language, folder.path / name, used.kind))
    return tracks


def check_subtitles(job: RenderJob) -> None:
    """Read every file of subtitles; raises the error of the first that can't be used."""
    for _, path in job.subtitles:
        read_subtitles(path)
