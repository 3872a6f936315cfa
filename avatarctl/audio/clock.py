"""Lay decoded pieces of sound on one clock by their time stamps: holes become silence, overlaps are cut."""

from __future__ import annotations

from fractions import Fraction

TOLERANCE_S = Fraction(25, 1000)  # stamps of live recordings jitter; less than this is no hole and no overlap


class Clock:
    """Position of the next sample, in samples since zero.

    ``position``: where the first sample goes. ``strict`` False: only the first stamp counts (AVI has no stamps of its
    own, ffmpeg calculates them from a mean bit rate).
    """

    def __init__(self, rate_hz: int, position: int = 0, strict: bool = True) -> None:
        self.position = position
        self._zero: int | None = None
        self._tolerance = round(TOLERANCE_S * rate_hz) if strict else None

    def place(self, stamp: int | None, count: int) -> tuple[int, int]:
        """Return the samples of silence before ``count`` samples stamped ``stamp``, and how many of them to drop.

        Without a stamp they follow what was before.
        """
        silence = dropped = 0
        if stamp is not None:
            if self._zero is None:
                self._zero = stamp - self.position
            late = stamp - self._zero - self.position
            if self._tolerance is not None and abs(late) >= self._tolerance:
                silence, dropped = max(late, 0), min(max(-late, 0), count)
        self.position += silence + count - dropped
        return silence, dropped
