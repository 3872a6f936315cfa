"""Split the stretch of time in which a face is there into pieces of some seconds, at pauses of the voice."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Span = tuple[int, int]  # first picture, and the one after the last
LONG_PAUSE_S = 2.0  # so long a pause is left out
BREATH_S = 0.4  # of which so much stays at each side


def pieces(
    span: Span,
    speech_T: NDArray[np.bool_],
    level_T: NDArray[np.float64],
    rate: float,
    least_s: float,
    most_s: float,
) -> list[Span]:
    """Return the pieces of a span of pictures, spoken and silent ones; ``speech_T`` and ``level_T`` are of the whole file.

    Long pauses are pieces of their own. What is spoken between them is split at pauses into ``least_s`` to ``most_s``
    seconds; what is shorter than that stays whole.
    """
    found: list[Span] = []
    for part in _between_long_pauses(span, speech_T, rate):
        found += _split(part, speech_T, level_T, round(least_s * rate), round(most_s * rate))
    return found


def _between_long_pauses(span: Span, speech_T: NDArray[np.bool_], rate: float) -> list[Span]:
    begin, end = span
    edges = [begin]
    for first, last in stretches(~speech_T[begin:end]):
        if last - first < LONG_PAUSE_S * rate:
            continue
        breath = round(BREATH_S * rate)
        quiet = (begin + first + (breath if first else 0), begin + last - (breath if begin + last < end else 0))
        edges += [quiet[0], quiet[1]]
    edges.append(end)
    return [(one, other) for one, other in pairwise(edges) if other > one]


def _split(span: Span, speech_T: NDArray[np.bool_], level_T: NDArray[np.float64], least: int, most: int) -> list[Span]:
    """Halve a span that is too long at the longest pause near its middle, or where it is quietest, until none is too long."""
    begin, end = span
    if end - begin <= most:
        return [span]
    middle, reach = (begin + end) / 2, max((end - begin) / 2 - least, 1)
    low, high = max(begin + least, begin + 1), min(end - least, end - 1)
    best, place = 0.0, low + int(np.argmin(level_T[low:high]))
    for first, last in stretches(~speech_T[low:high]):
        at = low + (first + last) // 2
        worth = (last - first) * (1.5 - abs(at - middle) / reach)
        if worth > best:
            best, place = worth, at
    return [
        *_split((begin, place), speech_T, level_T, least, most),
        *_split((place, end), speech_T, level_T, least, most),
    ]


def stretches(flags_T: NDArray[np.bool_]) -> list[Span]:
    """Return (first, end) of every unbroken stretch of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags_T, [False]]).astype(np.int8)))
    return [(int(first), int(last)) for first, last in zip(edges[::2], edges[1::2], strict=True)]
