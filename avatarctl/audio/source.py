"""Look at an audio or video file: which sound track, of what kind, joined of which recordings; decodes one frame."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg

from avatarctl.audio.frames import Frame, decoding, no_ffmpeg
from avatarctl.audio.pieces import Piece, pieces
from avatarctl.audio.tracks import Listing, Track, choose, listing
from avatarctl.errors import InputFileError

_ERROR = re.compile(r"\[(?:error|fatal)\] (.*)")


@dataclass(frozen=True)
class AudioInfo:
    """A sound track of a file.

    ``rate_hz``, ``channels`` and ``layout`` (ffmpeg's word, such as "5.1(side)") are those of the decoded samples.
    ``duration_s`` is what the container tells, to 0.01 s: None where it tells nothing (raw AAC, MP3 without a Xing header,
    live WebM) or nothing of this track (several sound tracks, joined files). ``track`` counts sound tracks
    from 1, of which there are ``tracks``.
    """

    rate_hz: int
    channels: int
    codec: str
    duration_s: float | None
    layout: str = ""
    track: int = 1
    tracks: int = 1


@dataclass(frozen=True)
class Found:
    """A file that was looked at: its sound track, and the recordings that it was joined of."""

    path: Path
    info: AudioInfo
    track: Track
    picture: Track | None
    pieces: list[Piece]
    container: str


def look(path: Path, number: int | None) -> Found:
    check_file(path)
    whole = Piece(0, path.stat().st_size)
    found, first = begin(path, whole, "", "0:a:0")
    track = choose(path, found, number) if found.tracks else None
    if track is not None and track is not found.sounds[0]:
        found, first = begin(path, whole, "", f"0:{track.index}")
    if track is not None and first is None and _ERROR.search(found.log) is None:
        raise no_sample(path)
    if first is None or track is None:
        raise InputFileError(
            f"{path}: got a file that can't be decoded ({_reason(found.log)}), expected a recording",
            "use a complete WAV, MP3, M4A, FLAC, OGG or WebM file, or a video with sound",
        )
    parts = pieces(path, found.container)
    if len(parts) > 1:  # ffmpeg's guess at the form of a joined file may be that of a later piece
        first = begin(path, parts[0], format_name(found.container), f"0:{track.index}")[1] or first
    alone = len(found.sounds) == 1 and len(parts) == 1
    info = AudioInfo(
        first.rate_hz,
        first.channels,
        track.codec,
        found.duration_s if alone else None,
        first.layout,
        found.sounds.index(track) + 1,
        len(found.sounds),
    )
    return Found(path, info, track, found.picture, parts, found.container)


class _Listed(Listing):
    log: str = ""


def begin(path: Path, piece: Piece, container: str, stream: str) -> tuple[_Listed, Frame | None]:
    """Return ffmpeg's listing of a file and the first frame of one of its streams."""
    output = ["-map", stream, "-af", "ashowinfo", "-c:a", "pcm_f32le", "-f", "f32le", "pipe:1"]
    with decoding(ffmpeg(), [*input_of(path, piece, container), *output]) as frames:
        batch = next(iter(frames), None)
        frames.process.kill()
        log = frames.log()
    found = _Listed(**vars(listing(log)))
    found.log = log
    return found, batch[0] if batch else None


def format_name(container: str) -> str:
    """Return a name of a format as ffmpeg's ``-f`` has it."""
    return container.split(",")[0]


def input_of(path: Path, piece: Piece, container: str) -> list[str]:
    """Return ffmpeg's input: with "file:" a name can't pass for an option or an address, and a playlist can't name one."""
    if not container:
        return ["-i", f"file:{path}"]
    part = f"subfile,,start,{piece.begin},end,{piece.end},,:file:{path}"
    return ["-protocol_whitelist", "file,subfile", "-f", container, "-i", part]


def no_sample(path: Path) -> InputFileError:
    return InputFileError(f"{path}: got a file without a single sample, expected a recording", "record it again")


def _reason(log: str) -> str:
    error = _ERROR.search(log)
    return f"ffmpeg: {error[1]}" if error else "ffmpeg finds no sound in it"


def check_file(path: Path) -> None:
    """Raise InputFileError for what is no readable regular file with content."""
    try:
        if path.exists() and not path.is_file():  # opening a named pipe would wait for ever
            kind = "a folder" if path.is_dir() else "something that is not a regular file"
            raise InputFileError(f"{path}: got {kind}, expected a recording", "give the path of one file")
        with path.open("rb") as file:
            if not file.read(1):
                raise InputFileError(f"{path}: got an empty file, expected a recording", "copy it again")
    except FileNotFoundError as error:
        raise InputFileError(f"{path}: got no such file, expected a recording", "check the path") from error
    except PermissionError as error:
        hint = f"chmod u+r {shlex.quote(str(path))}, or run as its owner"
        raise InputFileError(f"{path}: got a file that may not be read, expected a readable one", hint) from error
    except OSError as error:
        raise InputFileError(f"{path}: got {error.strerror}, expected a readable recording") from error


def ffmpeg() -> str:
    """Return the path of the ffmpeg that comes with imageio-ffmpeg; AvatarError without one."""
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise no_ffmpeg("none") from error
