"""Hair behind a head and over it, and hats: eight cuts with a few broad strands and a shine."""

from __future__ import annotations

import numpy as np

from avatarctl.puppet.world.identity import Identity
from avatarctl.puppet.world.scene import Tones
from avatarctl.puppet.world.shapes import BLACK, Canvas, Plane, joined, mixed, rgb, shaded

BOWLER = rgb(48, 48, 124)


def paint_back_hair(back: Canvas, who: Identity, tones: Tones) -> None:
    """Paint what hangs or stands behind the head."""
    wide, dark, darker = who.face_width, mixed(tones.hair, BLACK, 0.12), mixed(tones.hair, BLACK, 0.30)
    if who.hair_style == "long":
        crown, fall = back.oval(0.5, 0.40, wide + 0.075, 0.36), back.box(0.5, 0.70, wide + 0.055, 0.32, 0.04)
        back.paint(back.edge(joined(crown, fall, 0.08)), darker)
    elif who.hair_style == "bob":
        crown, fall = back.oval(0.5, 0.41, wide + 0.075, 0.36), back.box(0.5, 0.58, wide + 0.05, 0.14)
        back.paint(back.soft(np.maximum(joined(crown, fall, 0.1), back.y - np.float32(0.72)), 0.012), darker)
    elif who.hair_style == "buns":
        for side in (-1, 1):
            bun = back.part(0.5 + side * 0.225 - 0.1, 0.03, 0.5 + side * 0.225 + 0.1, 0.26)
            ball = bun.oval(0.5 + side * 0.225, 0.146, 0.086, 0.080)
            lit = np.clip((bun.y - np.float32(0.06)) / np.float32(0.17), 0, 1)
            bun.paint(bun.edge(ball), shaded(np.broadcast_to(dark, bun.pixels[..., :3].shape), darker, lit))
    elif who.hair_style == "curly":
        curls = np.full_like(back.x, 9)
        for angle in np.linspace(-3.35, 0.2, 11):
            x, y = 0.5 + np.cos(angle) * (wide + 0.035), 0.36 + np.sin(angle) * 0.255
            curls = np.minimum(curls, back.oval(x, y, 0.088, 0.088))
        back.paint(back.edge(curls), dark)


def paint_front_hair(front: Canvas, who: Identity, tones: Tones, face: Plane) -> None:
    """Paint the hair over the forehead and at the sides, and its shadow on the ``face`` (the cover of its pixels)."""
    if who.hair_style == "bald":
        return
    shape = _front_shape(front, who)
    x, y, hair = front.x - np.float32(0.5), front.y, tones.hair
    strands = 0.5 + 0.5 * np.sin(np.arctan2(y - np.float32(0.62), x - np.float32(who.parting)) * 26 + who.curl * 20)
    colours = hair * (1 - 0.08 * strands)[..., None].astype(np.float32)
    ring = (np.sqrt((x - np.float32(0.08 * who.light)) ** 2 + (y - np.float32(0.42)) ** 2) - 0.235) / 0.035
    shine = np.exp(-(ring**2)) * np.clip(1 - np.abs(x - np.float32(0.1 * who.light)) / 0.22, 0, 1)
    colours = shaded(colours, mixed(hair, rgb(255, 244, 225), 0.45), 0.75 * shine)
    colours = colours * (1 - 0.25 * front.soft(-shape - np.float32(0.012), 0.03))[..., None]
    front.paint(0.35 * front.soft(shape - np.float32(0.012), 0.035) * face, tones.deep)
    front.paint(front.soft(shape, 0.010), colours)


def _front_shape(front: Canvas, who: Identity) -> Plane:
    """Return the distance from the hair in front."""
    wide, style, y = who.face_width, who.hair_style, front.y
    t = (front.x - np.float32(0.5)) / np.float32(wide)  # -1 … 1 over the face
    wave = who.curl * 6
    if style == "fringe":
        line = 0.325 + 0.015 * np.sin(t * 9 + wave)
    elif style == "side":
        line = 0.235 + 0.13 * np.clip(np.abs(t - who.parting * 4) / 1.2, 0, 1) ** 1.5
    elif style == "buns":
        line = 0.225 + 0.16 * np.abs(t) ** 3
    elif style == "curly":
        line = 0.25 + 0.014 * np.sin(t * 14 + wave) + 0.12 * t**4
    elif style in ("bob", "long"):
        line = 0.215 + 0.24 * np.clip(np.abs(t - who.parting * 2), 0, 1.2) ** 1.7
    else:
        line = 0.235 + 0.10 * np.abs(t) ** 5 + 0.012 * np.sin(t * 12 + wave)
    scalp = joined(front.oval(0.5, 0.36, wide + 0.030, 0.285), front.oval(0.5, 0.30, wide + 0.022, 0.235), 0.05)
    shape = np.maximum(scalp, (y - line) * 0.8)
    for side in (-1, 1):
        if style in ("bob", "long"):
            middle, half = (0.50, 0.21) if style == "bob" else (0.60, 0.30)
            shape = joined(shape, front.oval(0.5 + side * (wide + 0.018), middle, 0.045, half), 0.05)
        else:
            tuft = np.maximum(front.oval(0.5 + side * (wide + 0.004), 0.40, 0.030, 0.10), np.float32(0.2) - y)
            shape = joined(shape, tuft, 0.03)
    return shape.astype(np.float32)


def paint_look(front: Canvas, eyes: Canvas, who: Identity, tones: Tones) -> None:
    """Paint the hat and the glasses of a person who wears them."""
    if "hat" in who.look or "bowler" in who.look:
        colour = BOWLER if "bowler" in who.look else mixed(tones.clothes, rgb(20, 20, 60), 0.35)
        top = front.part(0, 0, 1, 0.34)
        crown = np.maximum(top.oval(0.5, 0.21, who.face_width * 0.95, 0.17), top.y - np.float32(0.24))
        top.paint(top.edge(crown), colour * (1.1 - 0.4 * np.abs(top.x - np.float32(0.5 + 0.1 * who.light)))[..., None])
        brim, _ = top.line(0.5 - who.face_width - 0.07, 0.245, 0.5 + who.face_width + 0.07, 0.245)
        top.paint(top.edge(brim - np.float32(0.026)), mixed(colour, BLACK, 0.25))
    if "glasses" in who.look:
        band = eyes.part(0.22, 0.31, 0.78, 0.54)
        rims = np.minimum(*(np.abs(band.oval(0.5 + side * 0.128, 0.43, 0.102, 0.088)) for side in (-1, 1)))
        bridge, _ = band.line(0.474, 0.415, 0.526, 0.415)
        band.paint(band.edge(np.minimum(rims, bridge) - np.float32(0.008)), rgb(38, 34, 40))
