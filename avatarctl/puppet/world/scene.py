"""What stays still behind and below a head: the room, and the clothes as a layer that a neck disappears into."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from avatarctl.puppet.world.identity import Identity
from avatarctl.puppet.world.shapes import BLACK, WHITE, Canvas, Colour, Plane, joined, mixed, rgb


@dataclass(frozen=True)
class Tones:
    """Colours that several parts share: skin in half shade and in deep shade, hair, lips, clothes."""

    skin: Colour
    shade: Colour
    deep: Colour
    hair: Colour
    lips: Colour
    clothes: Colour

    @classmethod
    def of(cls, who: Identity) -> Tones:
        """Return a person's colours."""
        skin = rgb(*who.skin)
        shade, deep = mixed(skin, rgb(110, 45, 35), 0.28), mixed(skin, rgb(70, 25, 30), 0.45)
        return cls(skin, shade, deep, rgb(*who.hair), rgb(*who.lips), rgb(*who.clothes))


def paint_room(canvas: Canvas, who: Identity) -> None:
    """Fill the canvas with a wall, what hangs on it, and the light that falls on it."""
    chance = np.random.default_rng([who.seed, 8002])
    wall = rgb(*who.wall)
    canvas.pixels[:] = wall * (1.06 - 0.30 * canvas.y)[..., None]
    if who.room == "lights":
        for _ in range(7):
            x, y, radius = chance.uniform(0, 1), chance.uniform(0, 0.8), chance.uniform(0.05, 0.10)
            glow = mixed(wall, rgb(255, 240, 205), chance.uniform(0.3, 0.9))
            canvas.paint(0.30 * canvas.soft(canvas.oval(x, y, radius, radius), 0.03), glow)
    elif who.room == "window":
        x = 0.14 if chance.random() < 0.5 else 0.86
        canvas.paint(0.9 * canvas.soft(canvas.box(x, 0.22, 0.12, 0.24), 0.03), mixed(wall, rgb(230, 244, 255), 0.75))
        canvas.paint(0.6 * canvas.soft(canvas.box(x, 0.22, 0.008, 0.24), 0.02), mixed(wall, BLACK, 0.15))
    elif who.room == "panel":
        canvas.paint(0.55 * canvas.soft(0.58 - canvas.y, 0.02), mixed(wall, BLACK, 0.28))
    canvas.paint(0.35 * canvas.soft(canvas.oval(0.5 + 0.28 * who.light, 0.12, 0.6, 0.5), 0.6), mixed(wall, WHITE, 0.75))
    canvas.paint(0.30 * canvas.soft(-canvas.oval(0.5, 0.5, 0.72, 0.72), 0.5), mixed(wall, BLACK, 0.6))


def paint_body(layer: Canvas, who: Identity, tones: Tones) -> None:
    """Paint shoulders and a collar on an empty layer."""
    clothes = tones.clothes
    shoulders = joined(layer.oval(0.5, 1.20, 0.50, 0.30), layer.oval(0.5, 1.10, 0.22, 0.17), 0.06)
    lit = clothes * (1.08 - 0.35 * np.abs(layer.x - np.float32(0.5 + 0.2 * who.light)))[..., None]
    layer.paint(layer.edge(shoulders), lit)
    if who.collar == "round":
        layer.paint(layer.edge(layer.oval(0.5, 0.905, 0.13, 0.065)), tones.shade)
        seam = np.abs(layer.oval(0.5, 0.905, 0.135, 0.07)) - np.float32(0.010)
        layer.paint(0.8 * layer.edge(seam) * layer.soft(0.89 - layer.y, 0.02), mixed(clothes, BLACK, 0.25))
    elif who.collar == "v":
        layer.paint(layer.edge(_notch(layer, 0.115, 0.90)), tones.shade)
    elif who.collar == "shirt":
        layer.paint(layer.edge(_notch(layer, 0.085, 0.92)), tones.shade)
        for side in (-1, 1):
            flap, _ = layer.line(0.5 + side * 0.115, 0.905, 0.5 + side * 0.065, 0.985)
            layer.paint(layer.edge(flap - np.float32(0.030)), mixed(clothes, WHITE, 0.75))
    else:
        _turtleneck(layer, tones, lit)


def _notch(layer: Canvas, half_width: float, y: float) -> Plane:
    """Return the distance from a neckline that narrows downwards."""
    sides = np.abs(layer.x - np.float32(0.5)) - (np.float32(half_width) - (layer.y - np.float32(y)) * np.float32(0.9))
    return np.maximum(sides, np.float32(0.86) - layer.y)


def _turtleneck(layer: Canvas, tones: Tones, lit: NDArray[np.float32]) -> None:
    """Paint a soft tube that flows into the shoulders, with a rolled rim."""
    tube = joined(layer.box(0.5, 0.95, 0.122, 0.085, 0.035), layer.oval(0.5, 1.06, 0.30, 0.115), 0.08)
    cover = layer.edge(tube)
    layer.paint(cover, lit)
    sides = np.clip(np.abs(layer.x - np.float32(0.5)) / np.float32(0.13), 0, 1) ** 2
    round_ = 0.35 * sides * layer.soft(layer.y - np.float32(0.94), 0.08) * cover
    layer.paint(round_, mixed(tones.clothes, BLACK, 0.6))
    rim = np.abs(layer.oval(0.5, 0.870, 0.20, 0.036)) - np.float32(0.004)
    below = layer.soft(np.float32(0.88) - layer.y, 0.02) * cover
    layer.paint(0.55 * layer.soft(rim, 0.012) * below, mixed(tones.clothes, BLACK, 0.5))
