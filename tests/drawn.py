"""Draw a face from an identity and a pose, anti-aliased, with an exactly known mouth."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SIZE = 64
SUPERSAMPLE = 6  # drawn so many times larger, then averaged
# The mouth in units of the picture's side: where it is, its half height when shut and wide open, its half width.
MOUTH_X, MOUTH_Y = 0.5, 0.715
HALF_HEIGHT = (0.016, 0.108)
HALF_WIDTH = (0.090, 0.180)
MOUTH_DARK = (52, 14, 24)
LIP_LUMA = 112.0  # of every identity's lips, so that a measurement needs no calibration
Colour = tuple[int, int, int]
BOWLER: Colour = (48, 48, 124)


@dataclass(frozen=True)
class Identity:
    """What makes a face. Lengths in units of the picture's side; ``look`` is what the base model never saw."""

    skin: Colour
    hair: Colour
    eyes: Colour
    lips: Colour
    clothes: Colour
    wall: Colour
    face_width: float
    face_height: float
    eye_distance: float
    eye_size: float
    brow_tilt: float
    brow_width: float
    nose: float
    hair_style: Literal["short", "bob", "bun", "curly", "fringe", "bald"]
    collar: Literal["round", "v", "shirt"]
    freckles: bool
    look: tuple[str, ...] = ()  # hat (coloured as the clothes), bowler (always of one colour), glasses

    @classmethod
    def of(cls, seed: int, look: tuple[str, ...] = ()) -> Identity:
        """Return the identity of a seed."""
        chance = np.random.default_rng([seed, 7001])
        skins = [(255, 224, 196), (244, 200, 165), (229, 180, 140), (198, 142, 102), (172, 122, 88), (146, 104, 78)]
        hairs = [
            (44, 32, 28),
            (86, 56, 36),
            (140, 92, 48),
            (206, 164, 92),
            (176, 72, 40),
            (124, 124, 132),
            (30, 30, 44),
        ]
        lips = [(206, 92, 92), (190, 84, 100), (214, 104, 84), (178, 88, 92), (200, 80, 112)]
        return cls(
            skin=_near(skins[chance.integers(len(skins))], chance, 4),
            hair=_near(hairs[chance.integers(len(hairs))], chance, 6),
            eyes=_vivid(chance, 0.55, 0.5),
            lips=_of_luma(lips[chance.integers(len(lips))], LIP_LUMA),
            clothes=_vivid(chance, 0.6, 0.62),
            wall=_vivid(chance, 0.22, 0.9),
            face_width=chance.uniform(0.33, 0.385),
            face_height=chance.uniform(0.42, 0.455),
            eye_distance=chance.uniform(0.155, 0.185),
            eye_size=chance.uniform(0.062, 0.078),
            brow_tilt=chance.uniform(-0.018, 0.018),
            brow_width=chance.uniform(0.016, 0.028),
            nose=chance.uniform(0.022, 0.036),
            hair_style=("short", "bob", "bun", "curly", "fringe", "bald")[
                chance.choice(6, p=[0.2, 0.2, 0.18, 0.18, 0.18, 0.06])
            ],
            collar=("round", "v", "shirt")[chance.integers(3)],
            freckles=bool(chance.random() < 0.2),
            look=look,
        )


@dataclass(frozen=True)
class Pose:
    """One moment: mouth ``opening`` and ``width`` in 0 … 1, eyelids ``blink`` in 0 … 1, head ``sway`` in units of the side."""

    opening: float = 0.0
    width: float = 0.5
    blink: float = 0.0
    sway_x: float = 0.0
    sway_y: float = 0.0


def mouth_half_axes(opening: float, width: float) -> tuple[float, float]:
    """Return half width and half height of the mouth's inside, in units of the side."""
    wide = HALF_WIDTH[0] + width * (HALF_WIDTH[1] - HALF_WIDTH[0])
    return wide, HALF_HEIGHT[0] + opening * (HALF_HEIGHT[1] - HALF_HEIGHT[0])


def draw(identity: Identity, pose: Pose, size: int = SIZE) -> NDArray[np.uint8]:
    """Draw one picture (size, size, 3)."""
    side = size * SUPERSAMPLE
    canvas = Image.new("RGB", (side, side), identity.wall)
    pen = Pen(ImageDraw.Draw(canvas), side, pose.sway_x, pose.sway_y)
    _behind(pen, identity)
    _face(pen, identity, pose)
    _eyes(pen, identity, pose)
    _mouth(pen, identity, pose)
    _hair(pen, identity)
    _look(pen, identity)
    return np.asarray(canvas.reduce(SUPERSAMPLE))


class Pen:
    """Draws shapes given in units of the picture's side, moved with the head."""

    def __init__(self, canvas: ImageDraw.ImageDraw, side: int, sway_x: float, sway_y: float) -> None:
        self.canvas, self.side, self.sway = canvas, side, (sway_x, sway_y)

    def oval(self, x: float, y: float, rx: float, ry: float, colour: Colour, still: bool = False) -> None:
        """Fill an ellipse."""
        dx, dy = (0.0, 0.0) if still else self.sway
        x, y, s = x + dx, y + dy, self.side
        self.canvas.ellipse([(x - rx) * s, (y - ry) * s, (x + rx) * s - 1, (y + ry) * s - 1], fill=colour)

    def shape(self, points: list[tuple[float, float]], colour: Colour, still: bool = False) -> None:
        """Fill a polygon."""
        dx, dy = (0.0, 0.0) if still else self.sway
        self.canvas.polygon([((x + dx) * self.side, (y + dy) * self.side) for x, y in points], fill=colour)

    def line(self, points: list[tuple[float, float]], width: float, colour: Colour) -> None:
        """Draw a line with round ends."""
        (dx, dy), s = self.sway, self.side
        placed = [((x + dx) * s, (y + dy) * s) for x, y in points]
        self.canvas.line(placed, fill=colour, width=max(round(width * s), 1), joint="curve")
        for x, y in (placed[0], placed[-1]):
            r = width * s / 2
            self.canvas.ellipse([x - r, y - r, x + r, y + r], fill=colour)


# -- Parts of the picture -----------------------------------------------------------------------------------------------


def _behind(pen: Pen, who: Identity) -> None:
    pen.oval(0.5, 0.28, 0.52, 0.44, _mixed(who.wall, (255, 255, 255), 0.35), still=True)  # light on the wall
    if who.hair_style == "bob":
        pen.oval(0.5, 0.50, who.face_width + 0.085, 0.47, _mixed(who.hair, (0, 0, 0), 0.12))
    if who.hair_style == "bun":
        pen.oval(0.5, 0.045, 0.13, 0.10, who.hair)
    if who.hair_style == "curly":
        for angle in np.linspace(-2.9, -0.24, 9):
            x, y = 0.5 + np.cos(angle) * (who.face_width + 0.03), 0.44 + np.sin(angle) * 0.36
            pen.oval(float(x), float(y), 0.115, 0.115, who.hair)
    pen.shape([(0.37, 0.80), (0.63, 0.80), (0.66, 1.0), (0.34, 1.0)], _mixed(who.skin, (60, 20, 20), 0.16))
    pen.oval(0.5, 1.13, 0.52, 0.20, who.clothes, still=True)
    pale = _mixed(who.clothes, (255, 255, 255), 0.45)
    if who.collar == "v":
        pen.shape([(0.36, 0.93), (0.5, 1.04), (0.64, 0.93), (0.60, 0.93), (0.5, 0.99), (0.40, 0.93)], pale, still=True)
    elif who.collar == "shirt":
        pen.shape([(0.33, 0.96), (0.45, 0.93), (0.49, 1.02), (0.38, 1.05)], pale, still=True)
        pen.shape([(0.67, 0.96), (0.55, 0.93), (0.51, 1.02), (0.62, 1.05)], pale, still=True)


def _face(pen: Pen, who: Identity, pose: Pose) -> None:
    shade = _mixed(who.skin, (120, 40, 30), 0.14)
    for side in (-1, 1):
        pen.oval(0.5 + side * (who.face_width + 0.005), 0.50, 0.045, 0.075, shade)
    jaw = 0.018 * pose.opening
    pen.oval(0.5, 0.49 + jaw / 2, who.face_width, who.face_height + jaw, who.skin)
    blush = _mixed(who.skin, (235, 90, 90), 0.20)
    for side in (-1, 1):
        pen.oval(0.5 + side * who.face_width * 0.62, 0.585, 0.060, 0.040, blush)
    if who.freckles:
        for side in (-1, 1):
            for k in range(3):
                pen.oval(0.5 + side * (0.12 + 0.045 * k), 0.545 + 0.018 * (k % 2), 0.009, 0.009, shade)
    pen.line([(0.505, 0.46), (0.5 + who.nose, 0.535), (0.492, 0.545)], 0.018, _mixed(who.skin, (110, 40, 30), 0.30))


def _eyes(pen: Pen, who: Identity, pose: Pose) -> None:
    open_ = 1 - pose.blink
    for side in (-1, 1):
        x, y, r = 0.5 + side * who.eye_distance, 0.405, who.eye_size
        height = r * (0.10 + 0.82 * open_)
        pen.oval(x, y, r * 1.12, height * 1.08 + 0.006, _mixed(who.skin, (60, 20, 20), 0.45))
        if open_ > 0.15:
            pen.oval(x, y, r, height, (250, 250, 250))
            pen.oval(x, y, r * 0.58, min(r * 0.62, height), who.eyes)
            pen.oval(x, y, r * 0.30, min(r * 0.33, height), (26, 22, 26))
            if open_ > 0.5:
                pen.oval(x - r * 0.18, y - r * 0.22, r * 0.13, r * 0.13, (255, 255, 255))
        lift = -0.012 * pose.opening
        inner, outer = y - 0.098 + who.brow_tilt + lift, y - 0.098 - who.brow_tilt + lift
        brow = _mixed(who.hair, (40, 26, 22), 0.35)
        pen.line(
            [(x - side * 0.062, inner), (x, (inner + outer) / 2 - 0.014), (x + side * 0.066, outer)],
            who.brow_width,
            brow,
        )


def _mouth(pen: Pen, who: Identity, pose: Pose) -> None:
    wide, high = mouth_half_axes(pose.opening, pose.width)
    lip = 0.024 + 0.006 * (1 - pose.opening)
    pen.oval(MOUTH_X, MOUTH_Y, wide + lip * 1.1, high + lip, who.lips)
    pen.oval(MOUTH_X, MOUTH_Y, wide, high, MOUTH_DARK)


def _hair(pen: Pen, who: Identity) -> None:
    if who.hair_style == "bald":
        return
    w = who.face_width
    top = [
        (0.5 - w - 0.03, 0.34),
        (0.5 - w + 0.005, 0.16),
        (0.5 - 0.20, 0.05),
        (0.5, 0.015),
        (0.70, 0.05),
        (0.5 + w - 0.005, 0.16),
    ]
    top += [(0.5 + w + 0.03, 0.34)]
    if who.hair_style == "fringe":
        edge = [(0.5 + w * 0.9, 0.30), (0.64, 0.285), (0.5, 0.295), (0.36, 0.285), (0.5 - w * 0.9, 0.30)]
    elif who.hair_style in ("bob", "bun"):
        edge = [(0.5 + w * 0.88, 0.27), (0.56, 0.165), (0.5, 0.15), (0.44, 0.165), (0.5 - w * 0.88, 0.27)]
    else:
        edge = [(0.5 + w * 0.9, 0.25), (0.66, 0.185), (0.48, 0.205), (0.36, 0.175), (0.5 - w * 0.9, 0.25)]
    pen.shape([*top, *edge], who.hair)
    pen.oval(0.5, 0.125, w * 0.86, 0.115, who.hair)
    if who.hair_style == "bob":
        for side in (-1, 1):
            pen.oval(0.5 + side * (w + 0.02), 0.50, 0.055, 0.27, who.hair)
    shine = _mixed(who.hair, (255, 255, 255), 0.18)
    pen.line([(0.36, 0.115), (0.45, 0.075), (0.53, 0.07)], 0.020, shine)


def _look(pen: Pen, who: Identity) -> None:
    if "hat" in who.look or "bowler" in who.look:
        colour = BOWLER if "bowler" in who.look else _mixed(who.clothes, (20, 20, 60), 0.35)
        pen.oval(0.5, 0.06, who.face_width * 0.95, 0.17, colour)
        pen.line(
            [(0.5 - who.face_width - 0.07, 0.20), (0.5 + who.face_width + 0.07, 0.20)],
            0.055,
            _mixed(colour, (0, 0, 0), 0.25),
        )
    if "glasses" in who.look:
        dark = (38, 34, 40)
        for side in (-1, 1):
            x, y, r = 0.5 + side * who.eye_distance, 0.41, 0.115
            points = [(x + r * np.cos(a), y + r * np.sin(a)) for a in np.linspace(0, 2 * np.pi, 40)]
            pen.line([(float(px), float(py)) for px, py in points], 0.020, dark)
        pen.line([(0.5 - who.eye_distance + 0.115, 0.405), (0.5 + who.eye_distance - 0.115, 0.405)], 0.020, dark)


# -- Colours --------------------------------------------------------------------------------------------------------------


def luma(colour: Colour) -> float:
    """Return the brightness of a colour, 0 … 255 (ITU-R BT.601)."""
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def _near(colour: Colour, chance: np.random.Generator, spread: float) -> Colour:
    moved = [int(np.clip(channel + chance.normal(0, spread), 0, 255)) for channel in colour]
    return moved[0], moved[1], moved[2]


def _vivid(chance: np.random.Generator, saturation: float, value: float) -> Colour:
    parts = colorsys.hsv_to_rgb(chance.random(), saturation, value)
    return int(parts[0] * 255), int(parts[1] * 255), int(parts[2] * 255)


def _mixed(first: Colour, second: Colour, share: float) -> Colour:
    parts = [round(a + (b - a) * share) for a, b in zip(first, second, strict=True)]
    return parts[0], parts[1], parts[2]


def _of_luma(colour: Colour, target: float) -> Colour:
    """Return the colour made lighter or darker to a brightness."""
    factor = target / luma(colour)
    parts = [min(round(channel * factor), 255) for channel in colour]
    return parts[0], parts[1], parts[2]
