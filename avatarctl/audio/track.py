"""Write the stretch of a recording that is used to a file of its own: what the lips hear and the video plays."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import soxr
from numpy.typing import NDArray

from avatarctl.errors import InputFileError

Blocks: TypeAlias = Generator[NDArray[np.float32], None, None]

SAMPLE_RATE_HZ = 16_000  # what wav2vec 2.0 listens to

# Power of the channels' mean against that of as many unrelated ones: below it they are taken to cancel each other.
CANCELLED = 0.2
CANCELLED_SHARE = 0.05  # of the seconds with sound
AUDIBLE_DBFS = -60
LOUDEST = float(2**31)  # integers of 32 bits, taken for floating point; more is no sound

Through = Callable[[int, Blocks], tuple[int, Blocks]]


@dataclass(frozen=True)
class SoundTrack:
    """Raw little-endian float32 in a file: ``samples`` times ``channels``, with what was measured of them.

    ``peaks`` and ``powers`` are of each channel, ``mean_peak`` of the channels' mean. ``listens_to`` is the channel that
    lips follow, None for the mean of all.
    """

    path: Path
    rate_hz: int
    channels: int
    layout: str
    samples: int
    peaks: tuple[float, ...]
    powers: tuple[float, ...]
    mean_peak: float
    listens_to: int | None

    @property
    def peak(self) -> float:
        """The loudest sample."""
        return max(self.peaks)

    def blocks(self, first: int = 0, count: int | None = None) -> Blocks:
        """Return ``samples_TC`` a second at a time, ``count`` samples from ``first`` on."""
        left = (self.samples if count is None else first + count) - first
        with self.path.open("rb") as file:
            file.seek(4 * self.channels * first)
            while left > 0:
                data = file.read(4 * self.channels * min(left, self.rate_hz))
                if not data:
                    return
                block_TC = np.frombuffer(data, "<f4").reshape(-1, self.channels)
                left -= len(block_TC)
                yield block_TC

    def mono(self, first: int = 0, count: int | None = None) -> Blocks:
        """Return what lips follow, ``samples_T1``: the mean over channels, or one where they cancel each other."""
        for block_TC in self.blocks(first, count):
            yield self._mono(block_TC)

    def heard(self, first: int = 0, count: int | None = None) -> Blocks:
        """Return what a separator hears: all channels, or one where they cancel each other."""
        return self.blocks(first, count) if self.listens_to is None else self.mono(first, count)

    def _mono(self, block_TC: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.listens_to is not None:
            return block_TC[:, self.listens_to, None]
        return block_TC.mean(axis=1, keepdims=True)


def write_samples(path: Path, target: Path, rate_hz: int, channels: int, layout: str, blocks: Blocks) -> SoundTrack:
    """Write the blocks of recording ``path`` to ``target``, and measure them.

    ``target`` is written in place and left incomplete by an error. Raises InputFileError for samples that are no sound,
    and OSError if ``target`` can't be written.
    """
    total = 0
    with target.open("wb") as file, closing(blocks):
        for block_TC in blocks:
            file.write(np.ascontiguousarray(block_TC, "<f4").data)
            total += len(block_TC)
    return _measured(path, SoundTrack(target, rate_hz, channels, layout, total, (), (), 0.0, None))


def _measured(path: Path, track: SoundTrack) -> SoundTrack:
    """Return a track with levels, and the channel that lips follow where their mean would cancel what is said."""
    peaks, powers = np.zeros(track.channels), np.zeros(track.channels)
    mean_peak, audible, cancelled = 0.0, 0, 0
    for block_TC in track.blocks():  # whole seconds: the outcome doesn't depend on how fast blocks came
        power_C = np.square(block_TC, dtype=np.float64).sum(axis=0)
        mean_T = block_TC.mean(axis=1, dtype=np.float64)
        mean_peak = max(mean_peak, float(np.abs(mean_T).max()))
        peaks = np.maximum(peaks, np.abs(block_TC).max(axis=0))
        powers += power_C
        if power_C.sum() > len(block_TC) * 10 ** (AUDIBLE_DBFS / 10):
            audible += 1
            cancelled += np.square(mean_T).sum() < CANCELLED * power_C.sum() / track.channels**2
    if peaks.max() > LOUDEST:
        raise InputFileError(
            f"{path}: got samples up to {peaks.max():.3g} times full scale, expected sound of about full scale",
            "export the recording again: floating-point samples lie between -1 and 1",
        )
    follows = int(powers.argmax()) if cancelled > CANCELLED_SHARE * audible else None
    return SoundTrack(
        track.path,
        track.rate_hz,
        track.channels,
        track.layout,
        track.samples,
        tuple(map(float, peaks)),
        tuple(map(float, powers / track.samples)),
        mean_peak,
        follows,
    )


# -- What lips hear --------------------------------------------------------------------------------------------------


def write_heard(
    track: SoundTrack,
    target: Path,
    first: int = 0,
    count: int | None = None,
    gain: float = 1.0,
    through: Through | None = None,
) -> int:
    """Write what lips follow of a track at 16 kHz to ``target``, in flat memory; return its number of samples.

    ``through`` makes other blocks out of the track's (rate in Hz, blocks), such as the voice alone. ``target`` is raw
    little-endian float32, to be read with ``np.memmap(target, "<f4", "r")``. Raises InputFileError for a track too short
    to make one sample.
    """
    rate_hz = track.rate_hz
    blocks = track.mono(first, count) if through is None else track.heard(first, count)
    if through is not None:
        rate_hz, blocks = through(rate_hz, blocks)
    total = 0
    with target.open("wb") as file, closing(_resampled(rate_hz, blocks)) as chunks:
        for chunk in chunks:
            file.write((chunk if gain == 1.0 else chunk * np.float32(gain)).astype("<f4", copy=False).tobytes())
            total += len(chunk)
    return total


def _resampled(rate_hz: int, blocks: Blocks) -> Blocks:
    """Return the mean of blocks at 16 kHz: bit for bit soxr's ``resample(…, quality="HQ")`` in one go."""
    stream = soxr.ResampleStream(rate_hz, SAMPLE_RATE_HZ, 1, dtype="float32", quality="HQ")
    with closing(blocks):
        for block_TC in blocks:
            yield stream.resample_chunk(np.ascontiguousarray(block_TC.mean(axis=1)))
    yield stream.resample_chunk(np.empty(0, np.float32), last=True)


def as_json(track: SoundTrack) -> dict[str, Any]:
    """Return what is known of a track, without its path."""
    return {name: value for name, value in vars(track).items() if name != "path"}


def from_json(path: Path, content: dict[str, Any]) -> SoundTrack:
    """Return the track that ``as_json`` described."""
    return SoundTrack(path, **{**content, "peaks": tuple(content["peaks"]), "powers": tuple(content["powers"])})
