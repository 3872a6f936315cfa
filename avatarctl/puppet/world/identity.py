"""What makes a face, chosen by a seed: colours, proportions, hair, clothes, room, where the light comes from."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

Triple = tuple[float, float, float]
Hair = Literal["short", "side", "fringe", "bob", "long", "buns", "curly", "bald"]
Collar = Literal["round", "v", "shirt", "turtle"]
Room = Literal["plain", "lights", "window", "panel"]

SKINS: tuple[Triple, ...] = (
    (250, 216, 200),
    (242, 200, 176),
    (228, 178, 148),
    (202, 150, 116),
    (168, 118, 90),
    (130, 90, 68),
)
HAIRS: tuple[Triple, ...] = (
    (38, 28, 26),
    (78, 50, 34),
    (128, 84, 46),
    (202, 164, 100),
    (164, 70, 38),
    (150, 148, 150),
    (28, 28, 40),
)
# Eight irises that are easy to tell apart: which of them a rendered eye is nearest to is measured.
IRISES: tuple[Triple, ...] = (
    (74, 110, 70),
    (80, 130, 160),
    (70, 95, 150),
    (112, 72, 40),
    (84, 54, 34),
    (120, 126, 110),
    (146, 108, 52),
    (52, 140, 128),
)
LIPS: tuple[Triple, ...] = ((202, 98, 96), (186, 86, 98), (206, 104, 88), (176, 88, 90), (192, 82, 110))
HAIR_SHARES = (0.15, 0.16, 0.14, 0.14, 0.14, 0.11, 0.11, 0.05)


@dataclass(frozen=True)
class Identity:
    """A person and the room behind. Lengths in units of the picture's side; ``light`` from -1 (left) to 1 (right).

    ``look`` is what the base model never saw: hat (coloured as the clothes), bowler (always of one colour), glasses.
    """

    skin: Triple
    hair: Triple
    iris: Triple
    lips: Triple
    clothes: Triple
    wall: Triple
    face_width: float
    jaw: float  # width of the chin, of the face's
    eye_distance: float  # from the middle
    eye_width: float
    eye_height: float
    eye_tilt: float
    brow_tilt: float
    brow_width: float
    nose_width: float
    nose_length: float
    mouth_width: float
    lip_thickness: float
    hair_style: Hair
    parting: float
    collar: Collar
    room: Room
    light: float
    curl: float
    seed: int
    look: tuple[str, ...] = ()

    @classmethod
    def of(cls, seed: int, look: tuple[str, ...] = ()) -> Identity:
        """Return the identity of a seed."""
        chance = np.random.default_rng([seed, 8001])
        between = chance.uniform
        return cls(
            skin=_near(SKINS[chance.integers(len(SKINS))], chance, 4),
            hair=_near(HAIRS[chance.integers(len(HAIRS))], chance, 5),
            iris=_near(IRISES[chance.integers(len(IRISES))], chance, 4),
            lips=LIPS[chance.integers(len(LIPS))],
            clothes=_vivid(chance, between(0.25, 0.65), between(0.35, 0.8)),
            wall=_vivid(chance, between(0.08, 0.3), between(0.62, 0.92)),
            face_width=between(0.262, 0.295),
            jaw=between(0.72, 0.92),
            eye_distance=between(0.118, 0.132),
            eye_width=between(0.068, 0.078),
            eye_height=between(0.036, 0.044),
            eye_tilt=between(-0.006, 0.010),
            brow_tilt=between(-0.010, 0.010),
            brow_width=between(0.010, 0.017),
            nose_width=between(0.028, 0.040),
            nose_length=between(0.115, 0.135),
            mouth_width=between(0.092, 0.110),
            lip_thickness=between(1.0, 1.35),
            hair_style=get_args(Hair)[chance.choice(len(HAIR_SHARES), p=HAIR_SHARES)],
            parting=between(-0.09, 0.09),
            collar=get_args(Collar)[chance.integers(4)],
            room=get_args(Room)[chance.integers(4)],
            light=between(-1, 1),
            curl=between(0, 1),
            seed=seed,
            look=look,
        )

    def with_look(self, *look: str) -> Identity:
        """Return the same person with a hat, a bowler or glasses."""
        return replace(self, look=look)


@dataclass(frozen=True)
class Pose:
    """One moment. Zeros, and a mouth of middle width, are a face at rest that looks straight ahead.

    ``opening``, ``width`` and ``press`` (lips pressed together) of the mouth, ``blink`` in 0 … 1; ``brow`` raised,
    about -1 … 1; ``x`` and ``y`` of the head, ``yaw`` and ``nod`` (near parts move more) in units of the picture's
    side; ``roll`` in radians.
    """

    opening: float = 0.0
    width: float = 0.5
    press: float = 0.0
    blink: float = 0.0
    brow: float = 0.0
    x: float = 0.0
    y: float = 0.0
    roll: float = 0.0
    yaw: float = 0.0
    nod: float = 0.0


def _near(colour: Triple, chance: np.random.Generator, spread: float) -> Triple:
    """Return a colour a little lighter or darker; its tint moves a third as much, so that skin stays skin."""
    moved = np.asarray(colour) + chance.normal(0, spread) + chance.normal(0, spread / 3, 3)
    red, green, blue = (float(channel) for channel in np.clip(moved, 0, 255))
    return red, green, blue


def _vivid(chance: np.random.Generator, saturation: float, value: float) -> Triple:
    red, green, blue = (255 * part for part in colorsys.hsv_to_rgb(chance.random(), saturation, value))
    return red, green, blue
