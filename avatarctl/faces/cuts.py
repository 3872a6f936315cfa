"""Find the cuts of a video while its pictures go by: hard cuts, dissolves and fades; holds a few seconds of tiny pictures."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from PIL import Image

WIDTH, HEIGHT = 64, 36  # of the pictures that are compared
BINS = 16  # of each colour's histogram
# How the thresholds were chosen: docs/prepare.md, "Thresholds".
LEAST_CHANGE = 0.055  # of a cut's difference, 0 … 1
TIMES_OTHERS = 2.0  # a cut's difference over the second largest one around it
AROUND_S = 0.32
FLASH_S = 0.16  # what is gone again after this long is no cut
BACK_AGAIN = 0.5  # share of the difference that is left when what was before a flash is back
FADE_S = (0.5, 0.8, 1.3, 2.0, 3.0)  # stretches in which a dissolve or fade is looked for
FADE_EVERY = 2  # pictures
FADE_CHANGE = 0.10  # mean difference of the pictures before and after a fade, 0 … 1
FADE_LINE = 0.45  # how far pictures of a fade may be from the mix of both ends, in parts of their difference
FADE_STEP = 0.4  # share of a fade that one picture may bring: more is a cut
# Before and after a fade so many pictures at least (or a quarter of it) change by at most this part of what it changes.
STILL, MOVING = 4, 0.8
FADE_BACK = 0.1  # share by which it may go back: what moves isn't a mix
FADE_ENDS = 2  # pictures by which a fade is taken longer than it shows
EARLY_LATE = (0.4, 0.6)  # shares of a fade at which it is compared with a lamp that is dimmed
SAME_SCENE = 0.9  # correlation of a change of light with what is seen
EMPTY = 0.06  # brightness of a black picture, or what a white one lacks

Small = NDArray[np.float32]


@dataclass(frozen=True)
class Cut:
    """A change of shot: ``first`` is the first picture that isn't the old shot alone, ``last`` the first of the new one.

    Both are the same for a hard cut; between them lies a dissolve or a fade.
    """

    first: int
    last: int


class CutFinder:
    """Looks at pictures one after the other; a cut is known ``delay`` pictures later."""

    def __init__(self, fps: Fraction) -> None:
        self._around = max(round(AROUND_S * fps), 2)
        self._flash = max(round(FLASH_S * fps), 1)
        self._fades = [max(round(seconds * fps), 8) for seconds in FADE_S]
        self.delay = max(self._around, *self._fades)
        self._held: deque[tuple[Small, Small, Small]] = deque(maxlen=self.delay + self._around + 2)
        self._changes: deque[float] = deque(maxlen=self.delay + self._around + 2)
        self._count = 0
        self._last = -1  # picture at which the newest cut that was found ends
        self.suspect = False

    def push(self, picture_HWC: NDArray[np.uint8]) -> list[Cut]:
        """Look at the next picture; return cuts that are certain now. ``suspect`` tells whether this picture may begin a shot."""
        seen = _seen(picture_HWC)
        self._changes.append(_change(self._held[-1], seen) if self._held else 0.0)
        self._held.append(seen)
        self._count += 1
        self.suspect = self._changes[-1] > LEAST_CHANGE
        found = []
        for each in (self._hard(self._count - 1 - self._around), *(self._fade(length) for length in self._fades)):
            if each is not None and each.first > self._last:
                found.append(each)
                self._last = each.last
        return found

    def end(self) -> list[Cut]:
        """Return hard cuts among the last pictures, which nothing follows."""
        found = []
        for place in range(max(self._count - self._around, 1), self._count):
            each = self._hard(place)
            if each is not None and each.first > self._last:
                found.append(each)
                self._last = each.last
        return found

    def _hard(self, place: int) -> Cut | None:
        at = place - (self._count - len(self._held))
        if at < 1 or at >= len(self._held):
            return None
        changes = list(self._changes)
        change = changes[at]
        if change < LEAST_CHANGE:
            return None
        others = sorted([*changes[max(at - self._around, 0) : at], *changes[at + 1 : at + 1 + self._around]])
        second = others[-2] if len(others) > 1 else 0.0
        if change < TIMES_OTHERS * second or (others and change < others[-1]):
            return None
        before, after = max(at - 1 - self._flash, 0), min(at + self._flash, len(self._held) - 1)
        pairs = {(at - 1, after), (before, at), (before, after)} - {(at - 1, at)}
        if any(_change(self._held[one], self._held[other]) < BACK_AGAIN * change for one, other in pairs):
            return None  # a flash begins or ends
        return Cut(place, place)

    def _fade(self, length: int) -> Cut | None:
        """Return the dissolve or fade that lies within the last pictures: they are mixes of the first and the last one."""
        if len(self._held) < length + 1 or self._count % FADE_EVERY:
            return None
        start, end = self._held[-length - 1][0], self._held[-1][0]
        across = end - start
        if float(np.abs(across).mean()) < FADE_CHANGE:
            return None
        pictures = np.stack([self._held[place - length - 1][0] for place in range(length + 1)])
        size = float((across**2).sum())
        shares = ((pictures - start) * across).sum(axis=(1, 2, 3)) / size
        if float(np.diff(shares).max()) > FADE_STEP:
            return None
        first, last = int(np.argmax(shares > 0.05)), int(len(shares) - np.argmax(shares[::-1] < 0.95))
        still = max(STILL, (last - first) // 4)
        if first < still or last + still > length or last - first < 4:
            return None  # its ends aren't in sight yet, or no longer
        inside = float(np.abs(across).mean()) / (last - first)
        edges = (pictures[first] - pictures[first - still], pictures[last + still] - pictures[last])
        outside = max(float(np.abs(edge).mean()) for edge in edges) / still
        if outside > MOVING * inside or float(np.diff(shares[first:last]).min()) < -FADE_BACK:
            return None  # what moves all the time
        mixes = start + shares[:, None, None, None] * across
        off = np.sqrt(((pictures - mixes) ** 2).sum(axis=(1, 2, 3)) / size)
        early, late = (int(np.argmin(np.abs(shares[first:last] - share))) + first for share in EARLY_LATE)
        lit = not (_empty(start) or _empty(end)) and _other_light(pictures[early], pictures[late])
        if float(off[first:last].max()) > FADE_LINE or lit:
            return None
        begin = self._count - 1 - length
        return Cut(max(begin + first - FADE_ENDS, self._last, 1), begin + last + FADE_ENDS)


def _seen(picture_HWC: NDArray[np.uint8]) -> tuple[Small, Small, Small]:
    """Return a picture made small (0 … 1), its histograms and its edges."""
    small = Image.fromarray(picture_HWC).resize((WIDTH, HEIGHT), Image.Resampling.BOX, reducing_gap=2.0)
    pixels: Small = np.asarray(small, np.float32) / np.float32(255)
    counts = [np.histogram(pixels[..., channel], BINS, (0, 1))[0] for channel in range(3)]
    grey = pixels.mean(axis=2)
    edges = np.abs(np.diff(grey, axis=1))[:-1] + np.abs(np.diff(grey, axis=0))[:, :-1]
    return pixels, (np.stack(counts) / (WIDTH * HEIGHT)).astype(np.float32), edges.astype(np.float32)


def _change(one: tuple[Small, Small, Small], other: tuple[Small, Small, Small]) -> float:
    """Return how unlike two pictures are, 0 … 1: in pixels, colours (how far they have moved) and edges."""
    pixels = float(np.abs(one[0] - other[0]).mean())
    colours = float(np.abs(np.cumsum(one[1] - other[1], axis=1)).sum()) / (3 * BINS)
    edges = float(np.abs(one[2] - other[2]).sum() / max(float((one[2] + other[2]).sum()), 1.0))
    return (2 * pixels + colours + 0.5 * edges) / 3.5


def _empty(picture: Small) -> bool:
    """Return whether a picture is black or white: what a fade leads to."""
    return min(float(picture.mean()), 1 - float(picture.mean())) < EMPTY


def _other_light(early: Small, late: Small) -> bool:
    """Return whether what changes between two moments is what is seen in both: a lamp that is dimmed, not another scene."""
    one, other = _coarse(early), _coarse(late)
    change, both = other - one, one + other
    sizes = float(np.sqrt((change**2).sum() * (both**2).sum()))
    return sizes < 1e-6 or abs(float((change * both).sum())) / sizes > SAME_SCENE


def _coarse(picture: Small) -> Small:
    """Return colours of parts of a picture, about their mean: what moves a little doesn't show."""
    parts = picture.reshape(HEIGHT // 4, 4, WIDTH // 4, 4, 3).mean(axis=(1, 3))
    return parts - parts.mean()
