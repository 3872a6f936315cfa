"""Measure a recording: where its sound begins and ends, its loudness, and the gain to a wanted level."""

from __future__ import annotations

import math
import warnings
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from avatarctl.audio.decode import read_blocks
from avatarctl.audio.track import Blocks
from avatarctl.errors import InputFileError, UsageError

if TYPE_CHECKING:
    from pydub import AudioSegment


class Loudness(NamedTuple):
    """Level over all channels and loudest sample, both in dB relative to full scale."""

    dbfs: float
    peak_dbfs: float


def trimmed_span(
    path: Path,
    threshold_dbfs: float = -50.0,
    start_s: float | Fraction = 0,
    duration_s: float | Fraction | None = None,
) -> tuple[float, float]:
    """Leave out leading and trailing silence: return (start, duration) in seconds of the file, to 10 ms.

    Reads the recording once in flat memory. Raises what ``read_blocks`` and ``sound_in`` raise.
    """
    rate_hz, _, blocks = read_blocks(path, start_s, duration_s)
    begin_s, length_s = sound_in(path, rate_hz, blocks, threshold_dbfs)
    return float(start_s) + begin_s, length_s


def sound_in(path: Path, rate_hz: int, blocks: Blocks, threshold_dbfs: float = -50.0) -> tuple[float, float]:
    """Return where the sound of some blocks begins and how long it is, in seconds, without silence at both ends.

    Silence is 10 ms whose level over all channels is below ``threshold_dbfs``. Raises InputFileError, naming ``path``, if
    all is silence.
    """
    detect_leading_silence = _pydub().silence.detect_leading_silence
    begin_s, end_s, at_s = -1.0, 0.0, 0.0
    with closing(blocks):
        for block_TC in blocks:
            segment = _segment(block_TC, rate_hz)
            silence_ms = detect_leading_silence(segment, threshold_dbfs)
            if silence_ms < len(segment):
                begin_s = at_s + silence_ms / 1000 if begin_s < 0 else begin_s
                end_s = at_s + len(block_TC) / rate_hz
                end_s -= detect_leading_silence(segment.reverse(), threshold_dbfs) / 1000
            at_s += len(block_TC) / rate_hz
    if begin_s < 0:
        raise InputFileError(
            f"{path}: got nothing but silence below {threshold_dbfs:g} dBFS, expected a voice",
            "lower the silence threshold, or choose another recording",
        )
    return begin_s, end_s - begin_s


def loudness(path: Path, start_s: float | Fraction = 0, duration_s: float | Fraction | None = None) -> Loudness:
    """Measure level and peak of a recording, in flat memory. Raises what ``read_blocks`` raises.

    Digital silence has both at minus infinity.
    """
    return loudness_of(read_blocks(path, start_s, duration_s)[2])


def loudness_of(blocks: Blocks) -> Loudness:
    """Measure level and peak of some blocks."""
    energy, peak, count = 0.0, 0.0, 0
    with closing(blocks):
        for block_TC in blocks:
            energy += float(np.square(block_TC, dtype=np.float64).sum())
            peak = max(peak, float(np.abs(block_TC).max()))
            count += block_TC.size
    rms = math.sqrt(energy / count)
    return Loudness(decibel(rms), decibel(peak))


def decibel(level: float) -> float:
    """Return an amplitude in dB relative to full scale; minus infinity for 0."""
    return 20 * math.log10(level) if level else -math.inf


def gain_db(measured: Loudness, target_dbfs: float) -> float:
    """The gain that takes a recording to ``target_dbfs``, or as near as its loudest sample allows without clipping.

    ``measured.dbfs + gain_db(…)`` is the level reached. Raises UsageError for a target above full scale and
    InputFileError for digital silence, which no gain changes.
    """
    if target_dbfs > 0:
        raise UsageError(f"loudness: got a target of {target_dbfs:g} dBFS, expected 0 or less")
    if measured.peak_dbfs == -math.inf:
        raise InputFileError("loudness: got digital silence, expected sound", "choose another recording")
    return min(target_dbfs - measured.dbfs, -measured.peak_dbfs)


def _pydub() -> Any:
    """pydub with what is used of it; it warns of a missing ffmpeg in the PATH, which nothing here needs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        import pydub.silence

    return pydub


def _segment(block_TC: NDArray[np.float32], rate_hz: int) -> AudioSegment:
    samples_TC = np.rint(np.clip(block_TC, -1, 1) * np.float64(2**31 - 1)).astype("<i4")
    return _pydub().AudioSegment(samples_TC.tobytes(), sample_width=4, frame_rate=rate_hz, channels=block_TC.shape[1])
