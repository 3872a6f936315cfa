"""Signed distances of simple shapes, and a canvas that paints them with exact edges at any size, in numpy alone.

A distance is negative inside of a shape, in units of the picture's side. How much of a pixel a shape covers follows
from the distance at the pixel's middle, so that nothing is drawn larger first; a soft edge is light and shadow.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

Plane = NDArray[np.float32]
Colour = NDArray[np.float32]
WHITE = np.full(3, 255, np.float32)
BLACK = np.zeros(3, np.float32)
SLACK = 0.022  # of a part's box, for a head that is turned a little


def rgb(*channels: float) -> Colour:
    """Return a colour of red, green and blue in 0 … 255."""
    return np.array(channels, np.float32)


def mixed(first: ArrayLike, second: ArrayLike, share: float) -> Colour:
    """Return a colour on the way from the first to the second."""
    start = np.asarray(first, np.float32)
    return start + (np.asarray(second, np.float32) - start) * np.float32(share)


@dataclass(frozen=True)
class Canvas:
    """Pixels (H, W, 3 or 4) and where each lies: ``x`` and ``y`` (H, W) in units of the picture's side.

    Four channels are a layer: colours already multiplied by the fourth, which is how much of the pixel is covered.
    Canvases made from another one share its pixels.
    """

    pixels: NDArray[np.float32]
    x: Plane
    y: Plane
    pixel: float  # width of one pixel

    @classmethod
    def of(cls, size: int, view: float, centre: tuple[float, float], channels: int = 3) -> Canvas:
        """Return a black canvas that shows the square of width ``view`` about a point."""
        along = ((np.arange(size, dtype=np.float32) + 0.5) / size - 0.5) * view
        x, y = np.meshgrid((along + centre[0]).astype(np.float32), (along + centre[1]).astype(np.float32))
        return cls(np.zeros((size, size, channels), np.float32), x, y, view / size)

    def moved(self, dx: float, dy: float) -> Canvas:
        """Return the same pixels for shapes that are moved by so much."""
        return replace(self, x=self.x - np.float32(dx), y=self.y - np.float32(dy))

    def turned(self, angle: float, about: tuple[float, float]) -> Canvas:
        """Return the same pixels for shapes that are turned about a point."""
        cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        x, y = self.x - np.float32(about[0]), self.y - np.float32(about[1])
        return replace(self, x=cos * x + sin * y + np.float32(about[0]), y=cos * y - sin * x + np.float32(about[1]))

    def part(self, left: float, top: float, right: float, bottom: float) -> Canvas:
        """Return the pixels around a box alone: what is drawn in a corner costs a corner."""
        row, column = self.x[len(self.x) // 2], self.y[:, len(self.y) // 2]
        columns = slice(*np.searchsorted(row, [left - SLACK, right + SLACK]))
        rows = slice(*np.searchsorted(column, [top - SLACK, bottom + SLACK]))
        return replace(self, pixels=self.pixels[rows, columns], x=self.x[rows, columns], y=self.y[rows, columns])

    # -- Shapes, as distances of every pixel --

    def oval(self, x: float, y: float, rx: float, ry: float) -> Plane:
        """Return the distance from an ellipse, right to first order."""
        a, b = (self.x - np.float32(x)) / np.float32(rx), (self.y - np.float32(y)) / np.float32(ry)
        radius = np.sqrt(a * a + b * b)
        slope = np.sqrt((a / np.float32(rx)) ** 2 + (b / np.float32(ry)) ** 2) + np.float32(1e-6)
        return radius * (radius - 1) / slope

    def line(self, x0: float, y0: float, x1: float, y1: float) -> tuple[Plane, Plane]:
        """Return the distance from a straight line, and how far along it the nearest point lies, 0 … 1."""
        px, py = self.x - np.float32(x0), self.y - np.float32(y0)
        dx, dy = np.float32(x1 - x0), np.float32(y1 - y0)
        along = np.clip((px * dx + py * dy) / (dx * dx + dy * dy), 0, 1)
        return np.hypot(px - along * dx, py - along * dy), along.astype(np.float32)

    def box(self, x: float, y: float, rx: float, ry: float, corner: float = 0.0) -> Plane:
        """Return the distance from a rectangle of these half sides with round corners."""
        a = np.abs(self.x - np.float32(x)) - np.float32(rx - corner)
        b = np.abs(self.y - np.float32(y)) - np.float32(ry - corner)
        outside = np.hypot(np.maximum(a, 0), np.maximum(b, 0))
        return outside + np.minimum(np.maximum(a, b), 0) - np.float32(corner)

    # -- Paint --

    def edge(self, distance: Plane) -> Plane:
        """Return how much of every pixel lies inside of a shape, 0 … 1."""
        return np.clip(np.float32(0.5) - distance * np.float32(1 / self.pixel), 0, 1)

    def soft(self, distance: Plane, width: float) -> Plane:
        """Return the same with an edge that fades over ``width``."""
        t = np.clip(np.float32(0.5) - distance * np.float32(1 / max(width, self.pixel)), 0, 1)
        return t * t * (3 - 2 * t)

    def paint(self, cover: Plane | np.float32, colour: NDArray[np.float32]) -> None:
        """Lay a colour (3) or colours (H, W, 3) over the pixels, as thick as ``cover`` says."""
        cover = np.asarray(cover, np.float32)[..., None]
        self.pixels[..., :3] += cover * (colour - self.pixels[..., :3])
        if self.pixels.shape[2] == 4:
            self.pixels[..., 3:] += cover * (1 - self.pixels[..., 3:])

    def put(self, layer: Canvas) -> None:
        """Lay a layer of four channels over the pixels."""
        self.pixels[:] = self.pixels * (1 - layer.pixels[..., 3:]) + layer.pixels[..., :3]


def joined(first: Plane, second: Plane, round_: float) -> Plane:
    """Return the distance from two shapes that flow into each other over a length ``round_``."""
    share = np.clip(np.float32(0.5) + (second - first) * np.float32(0.5 / round_), 0, 1)
    return second + (first - second) * share - np.float32(round_) * share * (1 - share)


def shaded(base: NDArray[np.float32], colour: Colour, share: Plane) -> NDArray[np.float32]:
    """Return colours (H, W, 3) moved towards a colour by a share (H, W)."""
    return base + share[..., None] * (colour - base)
