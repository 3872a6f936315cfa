"""Tell persons apart in a video, and how far its face is from whom it should be."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from avatarctl.faces.identity import SAME_PERSON

LEAST_LOOKS = 3  # pictures that show a person, at least: one alone may be blurred or turned away

Numbers = NDArray[np.float32]


@dataclass
class Person:
    """The mean of the 128 numbers of a person, and how many pictures it is of."""

    mean: NDArray[np.float64]
    looks: int = 1

    def add(self, numbers: Numbers) -> None:
        """Take in another picture."""
        self.looks += 1
        self.mean += (numbers - self.mean) / self.looks


@dataclass
class Persons:
    """The persons seen so far, in the order in which they appeared."""

    found: list[Person] = field(default_factory=list)

    def of(self, numbers: Numbers) -> int:
        """Return which person it is: the nearest one if it is near enough, else a new one."""
        away = [float(np.linalg.norm(person.mean - numbers)) for person in self.found]
        if away and min(away) < SAME_PERSON:
            nearest = int(np.argmin(away))
            self.found[nearest].add(numbers)
            return nearest
        self.found.append(Person(numbers.astype(np.float64)))
        return len(self.found) - 1

    @property
    def count(self) -> int:
        """Return how many persons there are, without what was seen once or twice beside somebody who was seen more often."""
        least = min(LEAST_LOOKS, max((person.looks for person in self.found), default=0))
        return sum(person.looks >= least for person in self.found)


def distances(who_N128: list[Numbers], reference: Numbers) -> NDArray[np.float64]:
    """Return the distance of each face to the reference."""
    return np.array([np.linalg.norm(numbers - reference) for numbers in who_N128], np.float64)
