"""Read the sound of any audio or video file in blocks, on one clock that lips and video share."""

from __future__ import annotations

import re
import shlex
import sys
import tempfile
from collections.abc import Generator
from contextlib import closing
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from avatarctl.audio.clock import Clock
from avatarctl.audio.frames import Frame, Frames, decoding
from avatarctl.audio.pieces import Piece, ending
from avatarctl.audio.source import AudioInfo, Found, ffmpeg, format_name, input_of, look, no_sample
from avatarctl.audio.track import SAMPLE_RATE_HZ, Blocks, SoundTrack, Through, write_heard, write_samples
from avatarctl.audio.tracks import Listing, Track, lead_s, listing
from avatarctl.errors import InputFileError, UsageError

_DURATION_SLACK_S = 0.25  # containers round, and count a codec's padding or don't
_LEAST_LEAD_S = Fraction(2, 1000)  # Matroska and FLV round time stamps to milliseconds
_LONGEST_HOLE_S = 3600
# What ffmpeg says when it leaves out something that was there, or finds that something is missing.
# Without its level: another thread may have begun the line.
_LOSS = re.compile(
    r"(Error submitting .*packet.*|Decoding error.*|Error during demuxing.*|File ended prematurely.*|.*partial file.*)"
)


def probe(path: Path, track: int | None = None) -> AudioInfo:
    """Return what a sound track of ``path`` is, without decoding more than its beginning.

    ``track`` counts from 1; None is the default one. Raises InputFileError for a path that isn't a readable file with
    sound, UsageError for a track that isn't there, AvatarError without ffmpeg.
    """
    return look(path, track).info


def read_blocks(
    path: Path,
    start_s: float | Fraction = 0,
    duration_s: float | Fraction | None = None,
    track: int | None = None,
) -> tuple[int, int, Blocks]:
    """Decode ``path`` from ``start_s`` on: (rate in Hz, channels, blocks), each block ``samples_TC`` of at most 1 s.

    Samples are float32, full scale is 1. The clock is that of the file's time stamps: zero is the first sample, or the
    first picture of a video whose sound begins later; holes and the time before late sound are silence, of overlaps the
    part that came second is cut. Rate and channels are those of the beginning: what changes midway is resampled. Joined
    files follow each other. ``start_s`` and ``duration_s`` are rounded once to a sample; ``duration_s`` is the most that is
    returned, None means up to the end. Closing the iterator early ends ffmpeg.

    A format that doesn't tell how much its encoder put in front begins late by that: raw AAC and AAC in MPEG-TS or FLV by
    one encoder delay (1024 samples with ffmpeg's encoder, others differ), MP3 in AVI or without a LAME header by 1105
    samples. A correction would be a guess: there is none.

    Raises what ``probe`` raises, UsageError for a negative start or a duration without samples, and, while iterating,
    InputFileError: no samples, a start past the end, NaN or infinity, a damaged or cut off file. The last is decided by
    what ffmpeg couldn't decode and by what the container says about its end: size in WAV and AVI, end mark in Ogg,
    duration of a file with one sound track alone, unclosed WebM. Formats that say nothing (raw AAC, MPEG-TS, MP3 without
    Xing header, live WebM) show a cut only if it is inside a packet, and a cut behind ``duration_s`` is not seen at all.
    """
    found = look(path, track)
    rate_hz = found.info.rate_hz
    first = round(Fraction(start_s) * rate_hz)
    count = sys.maxsize if duration_s is None else round(Fraction(duration_s) * rate_hz)
    if first < 0:
        raise UsageError(
            f"start of the recording: got {float(start_s):g} s, expected 0 or more", "choose a later start"
        )
    if count < 1:
        raise UsageError(
            f"duration of the recording: got {float(duration_s or 0):g} s, expected at least one sample",
            "choose a longer duration",
        )
    return rate_hz, found.info.channels, _span(found, first, first + count)


# -- What lips hear --------------------------------------------------------------------------------------------------


def write_track(
    path: Path,
    target: Path,
    start_s: float | Fraction = 0,
    duration_s: float | Fraction | None = None,
    track: int | None = None,
) -> SoundTrack:
    """Write the samples of ``read_blocks`` to ``target`` in flat memory, and measure them.

    ``target`` is written in place and left incomplete by an error: pass a temporary name and rename. Raises what
    ``read_blocks`` raises, InputFileError for samples that are no sound, and OSError if ``target`` can't be written.
    """
    info = probe(path, track)
    rate_hz, channels, blocks = read_blocks(path, start_s, duration_s, track)
    return write_samples(path, target, rate_hz, channels, info.layout, blocks)


def write_waveform(
    path: Path,
    target: Path,
    start_s: float | Fraction = 0,
    duration_s: float | Fraction | None = None,
    through: Through | None = None,
    track: int | None = None,
) -> int:
    """Write what lips hear of a recording of any length to ``target`` in flat memory; return its number of samples.

    ``through`` makes other blocks out of the recording's (rate in Hz, blocks), such as the voice alone. The recording's own
    samples lie in a temporary file beside ``target`` meanwhile. Raises what ``write_track`` raises, and InputFileError
    for a recording too short to make one sample at 16 kHz.
    """
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        samples = write_track(path, Path(folder) / "track.f32", start_s, duration_s, track)
        return long_enough(path, write_heard(samples, target, through=through))


def long_enough(path: Path, samples: int) -> int:
    """Return ``samples``; raise InputFileError for none."""
    if samples == 0:
        raise InputFileError(
            f"{path}: got less than one sample at {SAMPLE_RATE_HZ} Hz, expected a longer recording", "record it again"
        )
    return samples


def waveform_16k(
    path: Path, start_s: float | Fraction = 0, duration_s: float | Fraction | None = None, track: int | None = None
) -> NDArray[np.float32]:
    """Return ``waveform_T``, what lips hear of a recording at 16 kHz, all in memory (3.7 MiB a minute).

    Raises what ``write_waveform`` raises.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "waveform.f32"
        write_waveform(path, target, start_s, duration_s, track=track)
        return np.fromfile(target, "<f4")


# -- Samples ---------------------------------------------------------------------------------------------------------


def _span(found: Found, first: int, end: int) -> Blocks:
    """Return the samples ``first`` to ``end`` of the clock."""
    path, rate_hz, done = found.path, found.info.rate_hz, 0
    for block_TC in _seconds(_clocked(found), rate_hz):
        wanted_TC = block_TC[max(first - done, 0) : end - done]
        bad = np.flatnonzero(~np.isfinite(wanted_TC).all(axis=1))
        if len(bad):
            at_s = (max(first, done) + int(bad[0])) / rate_hz
            raise InputFileError(
                f"{path}: got a sample that is not a finite number at {at_s:.3f} s, expected finite numbers",
                "export the recording again",
            )
        if len(wanted_TC):
            yield wanted_TC
        done += len(block_TC)
        if done >= end:
            return  # all that was asked for; the file may be longer
    if done == 0:
        raise no_sample(path)
    if done <= first:
        raise InputFileError(
            f"{path}: got a start at {first / rate_hz:.3f} s, expected one before the end at {done / rate_hz:.3f} s",
            "choose an earlier start",
        )


def _seconds(blocks: Blocks, rate_hz: int) -> Blocks:
    """Return the same samples in blocks of exactly a second: what comes out doesn't depend on how fast they came in."""
    held: list[NDArray[np.float32]] = []
    count = 0
    with closing(blocks):
        for block_TC in blocks:
            held.append(block_TC)
            count += len(block_TC)
            while count >= rate_hz:
                whole_TC = np.concatenate(held) if len(held) > 1 else held[0]
                yield whole_TC[:rate_hz]
                held = [whole_TC[rate_hz:]]
                count -= rate_hz
    if count:
        yield np.concatenate(held)


def _clocked(found: Found) -> Blocks:
    """Return all samples of a file, piece after piece, on its clock."""
    position = 0
    for number, piece in enumerate(found.pieces):
        container = format_name(found.container) if len(found.pieces) > 1 else ""
        position = yield from _decode(found, piece, container, number, position)


def _decode(
    found: Found, piece: Piece, container: str, number: int, begin: int
) -> Generator[NDArray[np.float32], None, int]:
    """Decode a piece that begins at sample ``begin``; return where it ends."""
    info, path = found.info, found.path
    end = ending(path, piece)
    options = ["-ignore_length", "1"] if end == "longer" else []
    stream = f"0:{found.track.index}" if number == 0 else "0:a:0"
    output = ["-map", stream, "-af", f"aformat=sample_rates={info.rate_hz},ashowinfo"]
    if number:
        output += ["-ac", str(info.channels)]
    output += ["-c:a", "pcm_f32le", "-f", "f32le", "pipe:1"]
    if found.picture is not None and number == 0:
        # The first picture is read too: the tracks of some formats have their zero where what is read begins.
        output += ["-map", f"0:{found.picture.index}", "-frames:v", "1", "-c:v", "copy", "-f", "null", "-"]
    with decoding(ffmpeg(), [*options, *input_of(path, piece, container), *output]) as frames:
        clock: Clock | None = None
        for batch in frames:
            if clock is None:
                head = listing(frames.said())
                lead = round(_lead_s(head, found.track, batch[0], info.rate_hz) * info.rate_hz) if number == 0 else 0
                clock = Clock(info.rate_hz, begin + lead, head.container != "avi")
                yield from _silence(lead, info)
            yield from _placed(found, frames, batch, clock)
        status = frames.process.wait()
        log = frames.log()
    position = begin if clock is None else clock.position
    _check_whole(found, listing(log), log, status == 0 and end != "cut", position - begin, position)
    return position


def _lead_s(head: Listing, track: Track, first: Frame, rate_hz: int) -> Fraction:
    if first.stamp is None:
        return Fraction(0)
    lead = lead_s(head, track, Fraction(first.stamp, rate_hz))
    return lead if lead >= _LEAST_LEAD_S else Fraction(0)


def _placed(found: Found, frames: Frames, batch: list[Frame], clock: Clock) -> Blocks:
    """Return the samples of announced frames as the clock has them."""
    waiting = 0
    for frame in batch:
        silence, dropped = clock.place(frame.stamp, frame.samples)
        if silence > _LONGEST_HOLE_S * found.info.rate_hz:
            raise InputFileError(
                f"{found.path}: got time stamps that jump by {silence / found.info.rate_hz:.0f} s, expected a recording "
                f"without holes of more than {_LONGEST_HOLE_S} s",
                f"write it again without its time stamps: {_repair(found)}",
            )
        if silence or dropped:
            yield from _read(frames, waiting, found.info)
            waiting = 0
            yield from _silence(silence, found.info)
            for _ in _read(frames, dropped, found.info):
                pass
        waiting += frame.samples - dropped
    yield from _read(frames, waiting, found.info)


def _read(frames: Frames, count: int, info: AudioInfo) -> Blocks:
    """Return so many samples from the pipe, at most a second at a time."""
    frame_bytes = 4 * info.channels
    while count > 0:
        wanted = min(count, info.rate_hz)
        data = frames.pipe.read(wanted * frame_bytes)
        whole = len(data) // frame_bytes
        if whole:
            yield np.frombuffer(data, "<f4", whole * info.channels).reshape(-1, info.channels)
        if whole < wanted:
            return  # ffmpeg was ended: its status tells
        count -= whole


def _silence(count: int, info: AudioInfo) -> Blocks:
    while count > 0:
        yield np.zeros((min(count, info.rate_hz), info.channels), np.float32)
        count -= info.rate_hz


# -- Damage ----------------------------------------------------------------------------------------------------------


def _check_whole(found: Found, head: Listing, log: str, complete: bool, count: int, position: int) -> None:
    """Raise InputFileError for a piece that isn't complete, of which ``count`` samples could be read."""
    rate_hz = found.info.rate_hz
    promised_s = 0.0
    # A film may be longer than its sound, and so may another sound track.
    if head.duration_s is not None and head.picture is None and len(head.sounds) == 1:
        promised_s = head.duration_s - float(head.start_s) - _DURATION_SLACK_S
    loss = _LOSS.search(log)
    if complete and loss is None and count / rate_hz >= promised_s:
        return
    reason = f"ffmpeg: {loss[1]}" if loss else "it ends before its declared end"
    raise InputFileError(
        f"{found.path}: got a damaged or cut off file ({position / rate_hz:.3f} s can be read; {reason}), "
        "expected a complete one",
        f"copy it again; or keep what can be read: {_repair(found)}",
    )


def _repair(found: Found) -> str:
    return shlex.join([ffmpeg(), "-i", f"file:{found.path}", "-map", f"0:{found.track.index}", "repaired.flac"])
