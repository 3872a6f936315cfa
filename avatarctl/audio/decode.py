"""Decode any audio file, or a video with sound, in blocks: as recorded, or as mono float32 at 16 kHz."""

from __future__ import annotations

import os
import re
import shlex
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, Literal, TypeAlias

import imageio_ffmpeg
import numpy as np
import soxr
from numpy.typing import NDArray

from avatarctl.errors import AvatarError, InputFileError, UsageError

Blocks: TypeAlias = Generator[NDArray[np.float32], None, None]

SAMPLE_RATE_HZ = 16_000  # what wav2vec 2.0 listens to

_UNKNOWN_SIZES = (0, 0x7FFFF000, 0x7FFFFFFF, 0xFFFFFFFF)  # left in WAV by writers that can't go back to the header
_OGG_PAGE_MAX_BYTES = 65_307  # RFC 3533, section 6
_DURATION_SLACK_S = 0.25  # containers round, and count a codec's padding or don't


@dataclass(frozen=True)
class AudioInfo:
    """The first sound track of a file.

    ``rate_hz`` and ``channels`` are those of the decoded samples. ``duration_s`` is the whole container's, to 0.01 s,
    and None where the file doesn't say (raw AAC, MP3 without a Xing header, live WebM).
    """

    rate_hz: int
    channels: int
    codec: str
    duration_s: float | None


def probe(path: Path) -> AudioInfo:
    """What the first sound track of ``path`` is, without decoding more than its beginning.

    Raises InputFileError for a path that isn't a readable file with sound, AvatarError without ffmpeg.
    """
    return _inspect(path)[0]


def read_blocks(
    path: Path, start_s: float | Fraction = 0, duration_s: float | Fraction | None = None
) -> tuple[int, int, Blocks]:
    """Decodes ``path`` from ``start_s`` on: (rate in Hz, channels, blocks), each block ``samples_TC`` of at most 1 s.

    Samples are float32, full scale is 1. ``start_s`` and ``duration_s`` are rounded once to a sample and counted in
    decoded samples; ``duration_s`` is the most that is given, None means up to the end. Closing the iterator early
    ends ffmpeg. The first sample is the first one recorded, except where a format doesn't tell how much its encoder
    put in front: raw AAC and AAC in MPEG-TS or FLV begin one encoder delay late (1024 samples with ffmpeg's encoder,
    others differ), MP3 in AVI or without a LAME header 1105 samples. A correction would be a guess: there is none.

    Raises what ``probe`` raises, UsageError for a negative start or a duration without samples, and, while iterating,
    InputFileError: no samples, a start past the end, NaN or infinity, a damaged or cut off file. The last is decided
    by ffmpeg's exit status (run with -xerror) and by what the container says about its end: size in WAV and AVI, end
    mark in Ogg, duration of a file with sound alone, unclosed WebM. Formats that say nothing (raw AAC, MPEG-TS, MP3
    without Xing header, live WebM) show a cut only if it is inside a packet, and a cut behind ``duration_s`` is not
    seen at all.
    """
    info, promised_s = _inspect(path)
    first = round(Fraction(start_s) * info.rate_hz)
    count = sys.maxsize if duration_s is None else round(Fraction(duration_s) * info.rate_hz)
    if first < 0:
        raise UsageError(
            f"start of the recording: got {float(start_s):g} s, expected 0 or more", "choose a later start"
        )
    if count < 1:
        raise UsageError(
            f"duration of the recording: got {float(duration_s or 0):g} s, expected at least one sample",
            "choose a longer duration",
        )
    return info.rate_hz, info.channels, _blocks(path, info, promised_s, first, first + count)


def waveform_16k(
    path: Path, start_s: float | Fraction = 0, duration_s: float | Fraction | None = None
) -> NDArray[np.float32]:
    """``waveform_T``: mean over channels, resampled to 16 kHz, all in memory (3.7 MiB a minute).

    Raises what ``read_blocks`` raises, and InputFileError for a recording too short to make one sample.
    """
    return np.concatenate(list(_mono_16k(path, start_s, duration_s)))


def write_waveform(
    path: Path,
    target: Path,
    start_s: float | Fraction = 0,
    duration_s: float | Fraction | None = None,
    through: Callable[[int, Blocks], tuple[int, Blocks]] | None = None,
) -> int:
    """Writes ``waveform_16k`` of a recording of any length to ``target`` in flat memory, gives its number of samples.

    ``through`` makes other blocks out of what ``read_blocks`` gives (rate in Hz, blocks), such as the voice alone.
    ``target`` is raw little-endian float32, to be read with ``np.memmap(target, "<f4", "r")``. It is written in place
    and left incomplete by an error: pass a temporary name and rename. Raises what ``waveform_16k`` raises, and OSError
    if ``target`` can't be written.
    """
    total = 0
    with target.open("wb") as file, closing(_mono_16k(path, start_s, duration_s, through)) as chunks:
        for chunk in chunks:
            file.write(chunk.astype("<f4", copy=False).tobytes())
            total += len(chunk)
    return total


def _mono_16k(
    path: Path,
    start_s: float | Fraction,
    duration_s: float | Fraction | None,
    through: Callable[[int, Blocks], tuple[int, Blocks]] | None = None,
) -> Blocks:
    rate_hz, _, blocks = read_blocks(path, start_s, duration_s)
    if through is not None:
        rate_hz, blocks = through(rate_hz, blocks)
    # Bit for bit what soxr.resample(…, quality="HQ") gives in one go, whatever the sizes of the blocks.
    stream = soxr.ResampleStream(rate_hz, SAMPLE_RATE_HZ, 1, dtype="float32", quality="HQ")
    total = 0
    with closing(blocks):
        for block_TC in blocks:
            chunk_T = stream.resample_chunk(block_TC.mean(axis=1))
            total += len(chunk_T)
            yield chunk_T
    chunk_T = stream.resample_chunk(np.empty(0, np.float32), last=True)
    if total + len(chunk_T) == 0:
        raise InputFileError(
            f"{path}: got less than one sample at {SAMPLE_RATE_HZ} Hz, expected a longer recording", "record it again"
        )
    yield chunk_T


def _inspect(path: Path) -> tuple[AudioInfo, float]:
    """Also gives the seconds of sound that the container promises at least (0 if it doesn't)."""
    _check_file(path)
    with _decoding(path, strict=False) as (pipe, process, log):
        header = _wav_header(pipe)
        if header is not None:
            process.kill()  # the beginning says it all
        process.wait()
        text = _read(log)
    streams = re.findall(r"^\[info\]   Stream #0:\d+.*?: (\w+): (\w+)(.*)", text, re.MULTILINE)
    codec = next((name for kind, name, _ in streams if kind == "Audio"), None)
    if streams and codec is None:
        found = ", ".join(f"{kind.lower()} {name}" for kind, name, _ in streams)
        raise InputFileError(f"{path}: got a file without sound ({found}), expected a recording", "choose another file")
    if header is None or codec is None:
        raise InputFileError(
            f"{path}: got a file that can't be decoded ({_first_error(text)}), expected a recording",
            "use a complete WAV, MP3, M4A, FLAC, OGG or WebM file, or a video with sound",
        )
    channels, rate_hz, _ = header
    declared = re.search(r"^\[info\]   Duration: (\d+):(\d+):(\d+\.\d+)(?:, start: (\d+\.\d+))?", text, re.MULTILINE)
    if declared is None or "[warning] Estimating duration from bitrate" in text:
        return AudioInfo(rate_hz, channels, codec, None), 0.0
    hours, minutes, seconds, offset = declared.groups(default="0")
    duration_s = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    # A film may go on after its sound has ended, a cover picture doesn't.
    film = any(kind == "Video" and "(attached pic)" not in rest for kind, _, rest in streams)
    promised_s = 0.0 if film else duration_s - float(offset) - _DURATION_SLACK_S
    return AudioInfo(rate_hz, channels, codec, duration_s), promised_s


def _blocks(path: Path, info: AudioInfo, promised_s: float, first: int, end: int) -> Blocks:
    """The frames ``first`` to ``end`` of ``path``."""
    frame_bytes = 4 * info.channels
    ending = _ending(path)
    done = 0
    with _decoding(path, strict=ending != "open") as (pipe, process, log):
        _wav_header(pipe)
        while len(data := pipe.read(info.rate_hz * frame_bytes)) >= frame_bytes:
            block_TC = np.frombuffer(data, "<f4", len(data) // frame_bytes * info.channels).reshape(-1, info.channels)
            wanted_TC = block_TC[max(first - done, 0) : end - done]
            bad = np.flatnonzero(~np.isfinite(wanted_TC).all(axis=1))
            if len(bad):
                at_s = (max(first, done) + int(bad[0])) / info.rate_hz
                raise InputFileError(
                    f"{path}: got a sample that is not a finite number at {at_s:.3f} s, expected finite numbers",
                    "export the recording again",
                )
            if len(wanted_TC):
                yield wanted_TC
            done += len(block_TC)
            if done >= end:
                return  # all that was asked for; the file may go on
        complete = process.wait() == 0 and ending != "cut"
        text = _read(log)

    length_s = done / info.rate_hz
    if not complete or length_s < promised_s or "[error] File ended prematurely" in text:
        repair = shlex.join([ffmpeg(), "-i", f"file:{path}", "-map", "0:a:0", "repaired.flac"])
        raise InputFileError(
            f"{path}: got a damaged or cut off file ({length_s:.3f} s can be read; {_first_error(text)}), "
            "expected a complete one",
            f"copy it again; or keep what can be read: {repair}",
        )
    if done == 0:
        raise InputFileError(f"{path}: got a file without a single sample, expected a recording", "record it again")
    if done <= first:
        raise InputFileError(
            f"{path}: got a start at {first / info.rate_hz:.3f} s, expected one before the end at {length_s:.3f} s",
            "choose an earlier start",
        )


@contextmanager
def _decoding(path: Path, strict: bool) -> Iterator[tuple[IO[bytes], subprocess.Popen[bytes], IO[bytes]]]:
    """Runs ffmpeg on ``path``: (float32 WAV, process, log). The process has ended when the context is left."""
    options = ["-v", "level+info", "-hide_banner", "-nostats", "-nostdin", *(["-xerror"] if strict else [])]
    # With "file:" a name can't pass for an option or an address, and a playlist can't name one.
    source = ["-i", f"file:{path}", "-map", "0:a:0"]
    command = [ffmpeg(), *options, *source, "-c:a", "pcm_f32le", "-f", "wav", "pipe:1"]
    with tempfile.TemporaryFile() as log:
        try:
            # A session of its own: Ctrl-C in the terminal is ours to handle, it must not look like a damaged file.
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, start_new_session=True)
        except OSError as error:
            raise _no_ffmpeg(str(error)) from error
        with process:
            assert process.stdout is not None
            try:
                yield process.stdout, process, log
            finally:
                process.kill()


def ffmpeg() -> str:
    """The path of the ffmpeg that comes with imageio-ffmpeg; AvatarError without one."""
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise _no_ffmpeg("none") from error


def _no_ffmpeg(got: str) -> AvatarError:
    return AvatarError(
        f"ffmpeg: got {got}, expected the program that comes with imageio-ffmpeg",
        "pip install --force-reinstall imageio-ffmpeg, and unset IMAGEIO_FFMPEG_EXE unless it names an ffmpeg",
    )


def _check_file(path: Path) -> None:
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


def _wav_header(file: IO[bytes]) -> tuple[int, int, int] | None:
    """Reads up to the first sample: (channels, rate in Hz, bytes of samples declared), None if it isn't WAV."""
    if file.read(12)[8:] != b"WAVE":
        return None
    channels = rate_hz = 0
    while len(head := file.read(8)) == 8:
        name, size = struct.unpack("<4sI", head)
        if name == b"data":
            return channels, rate_hz, size
        body = file.read(size + size % 2)
        if name == b"fmt " and len(body) >= 8:
            channels, rate_hz = struct.unpack("<2xHI", body[:8])
    return None


def _ending(path: Path) -> Literal["open", "cut", "other"]:
    """What the container says of its end where ffmpeg doesn't look: "open" is a WAV of undeclared size.

    ffmpeg takes a WAV that stops between two of its packets and an Ogg without end mark for whole, and with -xerror it
    drops the last packet of a WAV whose writer couldn't go back to note the size.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(12)
        if head[:4] == b"OggS":
            file.seek(max(0, size - _OGG_PAGE_MAX_BYTES))
            return "other" if _ends_ogg(file.read()) else "cut"
        if head[:4] != b"RIFF":
            return "other"
        if head[8:] != b"WAVE":
            return "cut" if size < int.from_bytes(head[4:8], "little") else "other"
        file.seek(0)
        header = _wav_header(file)
        if header is not None and header[2] in _UNKNOWN_SIZES:
            return "open"
        return "cut" if header is None or file.tell() + header[2] > size else "other"


def _ends_ogg(tail: bytes) -> bool:
    """Whether the last page is whole and marked as the last (RFC 3533, section 6)."""
    page = tail[max(tail.rfind(b"OggS"), 0) :]
    if len(page) < 27 or not page[5] & 4:
        return False
    lacing = page[27 : 27 + page[26]]
    return len(page) >= 27 + page[26] + sum(lacing)


def _read(log: IO[bytes]) -> str:
    log.seek(0)  # moves the place where ffmpeg writes too: it must have ended
    return log.read().decode("utf-8", "replace")


def _first_error(text: str) -> str:
    found = re.search(r"\[(?:error|fatal)\] (.*)", text)
    return f"ffmpeg: {found[1]}" if found else "it ends before its declared end"
