"""Follow every face of a video while its pictures go by: who is where in each picture, in which shot; in flat memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avatarctl.faces.cuts import Cut, CutFinder
from avatarctl.faces.find import Face, covered, face_from, find_faces
from avatarctl.faces.identity import identity_of
from avatarctl.faces.landmarks import PRESENT, Landmarks, landmarks_of_many

FIND_S = 0.2  # new faces are looked for so often
FIND_SMALL_S = 1.0  # small ones, where there is no other
IDENTITY_S = 0.4  # whose face it is, is asked so often
BRIDGED_S = 0.4  # a face that is back after this long was never away
SAME_PLACE = 0.3  # share of the smaller box that a face has in common with itself a moment ago
JUMP = 0.75  # of a face's height: further apart in two pictures in a row, it is another one

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Seen:
    """A face in one picture. ``track`` counts faces of the video from 0: one face in one shot, without interruption.

    ``identity``: the 128 numbers, in some pictures. ``measured``: what the caller's ``measure`` returned. ``bridged``: the
    face wasn't seen here, its points lie between those before and after, and its presence is what was seen at that place.
    """

    track: int
    face: Face
    identity: NDArray[np.float32] | None = None
    measured: Any = None
    bridged: bool = False


@dataclass(frozen=True)
class Look:
    """What one picture shows. ``number`` from 0; ``shot`` counts shots; ``mixed``: amid a dissolve or a fade."""

    number: int
    time_s: float
    shot: int
    mixed: bool
    faces: tuple[Seen, ...]

    @property
    def largest(self) -> Seen | None:
        """Return the largest face."""
        return max(self.faces, key=lambda seen: seen.face.height, default=None)


@dataclass
class _Followed:
    """A face that is being followed: its points when last seen, and where."""

    number: int
    points: Landmarks
    last: int
    presences: list[float] = field(default_factory=list)  # of the pictures since, in which it wasn't


def follow(
    pictures: Iterable[Picture],
    fps: Fraction,
    device: str = "cpu",
    measure: Callable[[Picture, Face], Any] | None = None,
    cuts: bool = True,
) -> Iterator[Look]:
    """Return what each RGB picture (H, W, 3) of a video shows, in order, some seconds of pictures late.

    Points are found in every picture from those in the picture before; new faces are looked for five times a second and
    where the picture changes. A face that is away for ``BRIDGED_S`` at most stays one track; a cut ends all tracks.
    ``measure`` is called with every face while its picture is at hand.
    """
    follower = _Follower(fps, device, measure, cuts)
    for picture in pictures:
        yield from follower.push(picture)
    yield from follower.end()


class _Follower:
    def __init__(
        self, fps: Fraction, device: str, measure: Callable[[Picture, Face], Any] | None, with_cuts: bool
    ) -> None:
        self._fps, self._device, self._measure = fps, device, measure
        self._finder = CutFinder(fps) if with_cuts else None
        self._most_gap = round(BRIDGED_S * fps)
        self._delay = max(self._finder.delay if self._finder else 0, self._most_gap) + 1
        self._step, self._tile_step, self._identity_step = (
            max(round(seconds * fps), 1) for seconds in (FIND_S, FIND_SMALL_S, IDENTITY_S)
        )
        self._faces: list[_Followed] = []
        self._waiting: deque[tuple[int, dict[int, Seen]]] = deque()  # picture, and its faces by their own numbers
        self._cuts: list[Cut] = []
        self._shot = 0
        self._names: dict[tuple[int, int], int] = {}  # of a face in a shot
        self._count = self._begun = 0

    def push(self, picture: Picture) -> Iterator[Look]:
        number = self._count
        self._count += 1
        suspect = False
        if self._finder is not None:
            self._cuts += self._finder.push(picture)
            suspect = self._finder.suspect
        shown: dict[int, Seen] = {}
        self._waiting.append((number, shown))
        self._follow(picture, number, shown)
        lost = any(each.last < number for each in self._faces)
        if number % self._step == 0 or suspect or (lost and number % 2 == 0):
            self._find(picture, number, shown)
        self._faces = [each for each in self._faces if number - each.last <= self._most_gap]
        while len(self._waiting) > self._delay:
            yield self._told()

    def end(self) -> Iterator[Look]:
        if self._finder is not None:
            self._cuts += self._finder.end()
        while self._waiting:
            yield self._told()

    # -- One picture -----------------------------------------------------------------------------------------------------

    def _follow(self, picture: Picture, number: int, shown: dict[int, Seen]) -> None:
        """Find the faces of the picture before in this one."""
        found = landmarks_of_many([(picture, each.points) for each in self._faces], self._device)
        taken: list[Face] = []
        for each, points in zip(list(self._faces), found, strict=True):
            face = face_from(points)
            if points.presence <= PRESENT or _jumped(each.points, points):
                each.presences.append(min(points.presence, PRESENT))
            elif any(covered(face.box, other.box) > 0.5 for other in taken):
                self._faces.remove(each)  # two that became one
            else:
                taken.append(face)
                self._see(picture, number, each, points, shown)

    def _find(self, picture: Picture, number: int, shown: dict[int, Seen]) -> None:
        """Look for faces that aren't followed: new ones, or ones that are back."""
        tiles = not self._faces and number % self._tile_step == 0
        for face in find_faces(picture, self._device, small=tiles):
            if any(covered(face.box, seen.face.box) > 0.5 for seen in shown.values()):
                continue
            away = [each for each in self._faces if each.last < number]
            points = Landmarks(face.points_N3, face.presence)
            back = next((each for each in away if covered(face.box, face_from(each.points).box) > SAME_PLACE), None)
            if back is None:
                back = _Followed(self._begun, points, number)
                self._begun += 1
                self._faces.append(back)
            self._see(picture, number, back, points, shown)

    def _see(self, picture: Picture, number: int, each: _Followed, points: Landmarks, shown: dict[int, Seen]) -> None:
        face = face_from(points)
        self._bridge(each, number, points)
        asked = number % self._identity_step == 0 or each.last == number
        who = identity_of(picture, face.points_N2, self._device) if asked else None
        measured = self._measure(picture, face) if self._measure else None
        shown[each.number] = Seen(each.number, face, who, measured)
        each.points, each.last = points, number
        each.presences.clear()

    def _bridge(self, each: _Followed, number: int, points: Landmarks) -> None:
        """Fill the pictures since a face was last seen with points between."""
        gap = number - each.last
        for place, shown in self._waiting:
            if each.last < place < number:
                share = (place - each.last) / gap
                between = (1 - share) * each.points.points_N3 + share * points.points_N3
                at = place - each.last - 1
                presence = each.presences[at] if at < len(each.presences) else 0.0
                shown[each.number] = Seen(each.number, Face(between, presence), bridged=True)

    # -- What is certain -------------------------------------------------------------------------------------------------

    def _told(self) -> Look:
        number, shown = self._waiting.popleft()
        while self._cuts and self._cuts[0].last <= number:
            self._cuts.pop(0)
            self._shot += 1
        amid = next((cut for cut in self._cuts if cut.first <= number < cut.last), None)
        shot = self._shot + (amid is not None and number >= (amid.first + amid.last + 1) // 2)
        faces = []
        for own, seen in shown.items():
            if seen.bridged and (own, shot) not in self._names:
                continue  # a gap that a cut lies in
            name = self._names.setdefault((own, shot), len(self._names))
            faces.append(replace(seen, track=name))
        return Look(number, float(number / self._fps), shot, amid is not None, tuple(faces))


def _jumped(before: Landmarks, now: Landmarks) -> bool:
    low, high = before.points_N2.min(axis=0), before.points_N2.max(axis=0)
    size = high - low
    moved = np.abs(now.points_N2.mean(axis=0) - before.points_N2.mean(axis=0)).max()
    grown = float((now.points_N2.max(axis=0) - now.points_N2.min(axis=0))[1] / max(size[1], 1e-6))
    return bool(moved > JUMP * size[1] or not 0.5 < grown < 2.0)
