"""Watch a video once, picture by picture, and keep what is measured of each: some 100 bytes a picture, no picture."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from avatarctl.evaluation.colour import lab
from avatarctl.evaluation.sheet import Sheet
from avatarctl.evaluation.skin import Skin, measure
from avatarctl.evaluation.source import Source
from avatarctl.faces.track import Look, Seen, follow

SEATS = 3  # faces that are kept apart in one picture; more are only counted
SETTLED = 5  # pictures after which the points of a face that was newly found are where they stay
SMALL_PX = 160  # longer side at which whole pictures are compared with each other
REPORT_EVERY = 25  # pictures

COLOURS = ("lightness", "a", "b")  # of the skin, in Lab
COLUMNS = ("opening", "presence", "height", "sharpness", *COLOURS, "left", "top", "right", "bottom")

Curve = NDArray[np.float64]


@dataclass
class Seat:
    """One face after the other, never two at once: what is measured of it in each picture, not a number where it isn't seen.

    Whoever is in one place before and after a cut sits in one seat, also when it is somebody else.
    """

    track: int = -1
    begun: int = -1  # picture in which this track was first seen
    box: NDArray[np.float64] = field(default_factory=lambda: np.zeros(4))
    columns: dict[str, array[float]] = field(default_factory=lambda: {name: array("f") for name in COLUMNS})
    who_at: array[int] = field(default_factory=lambda: array("l"))
    who: list[NDArray[np.float32]] = field(default_factory=list)

    def curve(self, name: str) -> Curve:
        """Return a column as (pictures,)."""
        return np.array(self.columns[name], np.float64)


@dataclass
class Watched:
    """What was measured of every picture of a video.

    ``steps``: mean difference to the picture before in grey levels; ``lightness``: of the whole picture (Lab); ``shots``:
    number of the shot; ``mixed``: amid a dissolve; ``crowd``: faces in it. ``still``: mean difference of neighbouring
    pictures at each pixel of a small picture.
    """

    fps: Fraction
    size: tuple[int, int]
    seats: list[Seat]
    steps: Curve
    lightness: Curve
    shots: NDArray[np.int64]
    mixed: NDArray[np.bool_]
    crowd: NDArray[np.int64]
    still: NDArray[np.float64]
    sheet: Sheet

    @property
    def pictures(self) -> int:
        """Return how many pictures there are."""
        return len(self.steps)

    @property
    def face_height(self) -> float:
        """Return the median height in pixels of the face that is seen most, as it was looked at; 0 without one."""
        heights = [seat.curve("height") for seat in self.seats]
        most = max(heights, key=lambda height: float(np.nansum(height)))
        return float(np.nanmedian(most)) if np.isfinite(most).any() else 0.0


def watch(source: Source, device: str = "cpu", report: Callable[[int], None] = lambda _: None) -> Watched:
    """Return what the pictures of a video show. ``report`` is called with the number of pictures, now and then."""
    whole = _Whole()
    seats = [Seat() for _ in range(SEATS)]
    shots, mixed, crowd = array("l"), array("b"), array("l")
    for look in follow(whole.passing(source.pictures()), source.fps, device, measure):
        _seat(look, seats)
        shots.append(look.shot)
        mixed.append(look.mixed)
        crowd.append(len(look.faces))
        whole.sheet.show(look)
        if look.number % REPORT_EVERY == 0:
            report(look.number)
    count = max(len(whole.steps) - 1, 1)
    return Watched(
        source.fps,
        source.size,
        seats,
        np.array(whole.steps, np.float64),
        np.array(whole.lightness, np.float64),
        np.array(shots, np.int64),
        np.array(mixed, bool),
        np.array(crowd, np.int64),
        whole.change / count,
        whole.sheet,
    )


class _Whole:
    """Compares whole pictures, made small, with those before them."""

    def __init__(self) -> None:
        self.steps, self.lightness = array("f"), array("f")
        self.change: NDArray[np.float64] = np.zeros((1, 1))
        self.sheet = Sheet()

    def passing(self, pictures: Iterator[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
        before: NDArray[np.int16] | None = None
        for number, picture in enumerate(pictures):
            small = _small(picture)
            self.lightness.append(float(lab(small.astype(np.float64).mean((0, 1)))[0]))
            if before is None:
                self.change = np.zeros(small.shape[:2])
                self.steps.append(0.0)
            else:
                difference = np.abs(small - before).mean(axis=2)
                self.change += difference
                self.steps.append(float(difference.mean()))
            before = small
            self.sheet.offer(number, picture)
            yield picture


def _small(picture_HWC: NDArray[np.uint8]) -> NDArray[np.int16]:
    factor = max(-(-max(picture_HWC.shape[:2]) // SMALL_PX), 1)
    return np.asarray(Image.fromarray(picture_HWC).reduce(factor), np.int16)


def _seat(look: Look, seats: list[Seat]) -> None:
    """Give every face of a picture its seat: its own, or a free one, that of the nearest face before."""
    waiting: list[Seen] = []
    taken: dict[int, Seen] = {}
    for seen in sorted(look.faces, key=lambda seen: -seen.face.height):
        own = next((place for place, seat in enumerate(seats) if seat.track == seen.track), None)
        if own is None:
            waiting.append(seen)
        else:
            taken[own] = seen
    for seen in waiting:
        free = [place for place in range(len(seats)) if place not in taken]
        if free:
            taken[min(free, key=lambda place: (_distance(seats[place], seen), place))] = seen
    for place, seat in enumerate(seats):
        _fill(seat, look.number, taken.get(place))


def _distance(seat: Seat, seen: Seen) -> float:
    """Return how far a face is from the last one of a seat, in its own heights; an empty seat comes last."""
    if seat.track < 0:
        return float("inf")
    box = seen.face.box
    centre, before = (box[:2] + box[2:]) / 2, (seat.box[:2] + seat.box[2:]) / 2
    return float(np.linalg.norm(centre - before)) / max(seen.face.height, 1.0)


def _fill(seat: Seat, number: int, seen: Seen | None) -> None:
    nothing = float("nan")
    row = dict.fromkeys(COLUMNS, nothing)
    row["presence"] = 0.0
    if seen is not None:
        seat.begun = seat.begun if seen.track == seat.track else number
        seat.track, seat.box = seen.track, seen.face.box
        left, top, right, bottom = (float(value) for value in seen.face.head)
        row.update(presence=seen.face.presence, left=left, top=top, right=right, bottom=bottom)
        row.update(height=seen.face.height)
        if isinstance(seen.measured, Skin):
            lightness, a, b = seen.measured.colour
            row.update(sharpness=seen.measured.sharpness, lightness=lightness, a=a, b=b)
            if number - seat.begun >= SETTLED:
                row["opening"] = seen.measured.opening
        if seen.identity is not None and not seen.bridged:
            seat.who_at.append(number)
            seat.who.append(seen.identity)
    for name, value in row.items():
        seat.columns[name].append(value)
