"""The mouth: lips that press, a gap that opens, teeth and tongue in it; where it lies and how its shape follows a pose."""

from __future__ import annotations

import numpy as np

from avatarctl.puppet.world.identity import Identity, Pose
from avatarctl.puppet.world.scene import Tones
from avatarctl.puppet.world.shapes import BLACK, WHITE, Canvas, mixed, rgb

X, Y = 0.5, 0.705  # of the line between the lips, in a head that looks straight ahead
GAP = 0.110  # height of the gap, wide open
SMILE = 0.15  # corners are a little higher than the middle
INSIDE, TEETH, TONGUE = rgb(50, 14, 22), rgb(238, 234, 226), rgb(186, 78, 86)


def half_width(who: Identity, width: float) -> float:
    """Return half the width of the mouth in units of the picture's side."""
    return who.mouth_width * (0.72 + 0.50 * width) + 0.004 * SMILE


def paint_mouth(head: Canvas, who: Identity, pose: Pose, tones: Tones) -> None:
    """Paint lips, what is seen between them, and the shadow below."""
    part = head.part(X - 0.15, Y - 0.09, X + 0.15, Y + 0.15)
    wide, height = half_width(who, pose.width), GAP * pose.opening
    up, low = height * 0.36, height * 0.64
    thick = who.lip_thickness * (1 - 0.55 * pose.press)
    u = (part.x - np.float32(X)) / np.float32(wide)  # -1 … 1 from corner to corner
    arch = np.clip(1 - u * u, 0, 1)
    v = part.y - np.float32(Y) + np.float32(0.018 * SMILE) * np.clip(np.abs(u), 0, 1.2) ** 2
    # From above: upper edge of the upper lip, edges of the gap, lower edge of the lower lip.
    gap_top, gap_bottom = -np.float32(up) * arch**0.8, np.float32(low) * arch**0.7
    bow = 1 - 0.22 * np.exp(-((u / 0.16) ** 2))
    top = gap_top - np.float32(0.021 * thick) * arch**0.7 * bow
    bottom = gap_bottom + np.float32(0.027 * thick) * arch**0.6
    corners = _inside((1 - np.abs(u)) * np.float32(wide), part.pixel)

    part.paint(0.45 * part.soft(np.abs(v - bottom - 0.012) - 0.006, 0.022) * np.clip(1 - np.abs(u), 0, 1), tones.deep)
    above = v < (gap_top + gap_bottom) / 2
    colours = np.where(above[..., None], mixed(tones.lips, BLACK, 0.20), tones.lips)
    gloss = part.oval(X, Y + low + 0.0135 * thick, wide * 0.36, 0.0055)
    colours = colours + (0.55 * part.soft(gloss, 0.012))[..., None] * (mixed(tones.lips, WHITE, 0.55) - colours)
    part.paint(_inside(np.minimum(v - top, bottom - v), part.pixel) * corners, colours)

    if pose.opening > 0.02:
        gap = _inside(np.minimum(v - gap_top, gap_bottom - v), part.pixel) * corners
        part.paint(gap, INSIDE)
        row = _inside(np.float32(min(0.34 * height, 0.020)) - (v - gap_top), part.pixel)
        part.paint(gap * row * _inside((0.80 - np.abs(u)) * np.float32(wide), part.pixel), TEETH)
        tongue = part.soft(part.oval(X, Y + low + 0.008, wide * 0.60, 0.40 * height), 0.012)
        part.paint(gap * tongue * np.float32(0.9 * np.clip((pose.opening - 0.2) / 0.1, 0, 1)), TONGUE)
    if pose.opening < 0.15:  # a line where lips meet
        strength = 0.9 - 0.5 * min(pose.opening * 6, 1)
        line = _inside(np.float32(0.0042) - np.abs(v - (gap_top + gap_bottom) / 2), part.pixel)
        part.paint(strength * line * corners, mixed(tones.lips, rgb(60, 10, 20), 0.72))


def _inside(depth: np.ndarray, pixel: float) -> np.ndarray:
    """Return how much of every pixel is covered, of how deep its middle lies inside."""
    return np.clip(depth * np.float32(1 / pixel) + np.float32(0.5), 0, 1)
