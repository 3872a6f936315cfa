"""The head: ears, face with its light and shade, nose, eyes with lids that close, brows."""

from __future__ import annotations

import numpy as np

from avatarctl.puppet.world.identity import Identity, Pose
from avatarctl.puppet.world.scene import Tones
from avatarctl.puppet.world.shapes import BLACK, WHITE, Canvas, Plane, joined, mixed, rgb, shaded

EYE_Y = 0.425
LID_REACH = 1.42  # of an eye's height: how far the upper lid comes down


def paint_neck(canvas: Canvas, tones: Tones) -> None:
    """Paint the neck, and the chin's shadow on it."""
    neck = canvas.part(0.3, 0.68, 0.7, 1)
    wider = 0.06 * np.clip((neck.y - np.float32(0.86)) / 0.14, 0, 1) ** 2
    cover = neck.edge(np.maximum(np.abs(neck.x - np.float32(0.5)) - (0.105 + wider), np.float32(0.70) - neck.y))
    neck.paint(cover, tones.shade)
    neck.paint(0.75 * neck.soft(neck.oval(0.5, 0.80, 0.16, 0.09), 0.10) * cover, tones.deep)


def paint_ears(back: Canvas, who: Identity, tones: Tones) -> None:
    """Paint both ears."""
    for side in (-1, 1):
        x = 0.5 + side * (who.face_width + 0.012)
        ear = back.part(x - 0.05, 0.40, x + 0.05, 0.55)
        cover = ear.edge(ear.oval(x, 0.475, 0.034, 0.060))
        ear.paint(cover, mixed(tones.skin, rgb(150, 60, 50), 0.16))
        ear.paint(0.6 * ear.soft(ear.oval(x + side * 0.004, 0.478, 0.016, 0.036), 0.02) * cover, tones.deep)


def paint_face(front: Canvas, eyes: Canvas, who: Identity, pose: Pose, tones: Tones) -> Plane:
    """Paint the bare face; return how much of each pixel it covers."""
    wide, jaw, light = who.face_width, 0.030 * pose.opening, who.light
    skull = front.oval(0.5, 0.405, wide, 0.29)
    shape = joined(skull, front.oval(0.5, 0.575 + jaw * 0.6, wide * who.jaw, 0.235 + jaw * 0.5), 0.10)
    cover = front.edge(shape)
    colours = np.broadcast_to(tones.skin, (*front.x.shape, 3))
    colours = shaded(
        colours, mixed(tones.skin, WHITE, 0.22), front.soft(front.oval(0.5 + 0.07 * light, 0.33, 0.20, 0.16), 0.28)
    )
    away = np.clip(0.5 - (front.x - np.float32(0.5)) * np.float32(light / 0.30), 0, 1) ** 2
    colours = shaded(colours, tones.shade, 0.75 * abs(light) * away)
    colours = shaded(colours, tones.shade, 0.55 * front.soft(-shape - np.float32(0.035), 0.09))
    for side in (-1, 1):
        cheek = eyes.oval(0.5 + side * wide * 0.60, 0.575, 0.060, 0.045)
        colours = shaded(colours, mixed(tones.skin, rgb(226, 84, 84), 0.42), 0.65 * eyes.soft(cheek, 0.09))
        socket = eyes.oval(0.5 + side * who.eye_distance, EYE_Y, who.eye_width * 1.25, 0.052)
        colours = shaded(colours, tones.shade, 0.55 * eyes.soft(socket, 0.07))
    chin = eyes.oval(0.5, 0.800 + jaw, 0.065, 0.020)
    front.paint(cover, shaded(colours, tones.deep, 0.35 * eyes.soft(chin, 0.05)))
    return cover


def paint_nose(near: Canvas, who: Identity, tones: Tones) -> None:
    """Paint the nose: a bridge in shade away from the light, wings, nostrils, a bright tip."""
    nose = near.part(0.40, 0.40, 0.60, 0.62)
    side, y, wide = (-1 if who.light > 0 else 1), 0.435 + who.nose_length, who.nose_width
    bridge, _ = nose.line(0.5 + side * 0.016, 0.42, 0.5 + side * 0.022, y - 0.02)
    nose.paint(0.50 * nose.soft(bridge - np.float32(0.004), 0.035), tones.deep)
    nose.paint(0.55 * nose.soft(nose.oval(0.5, y, wide, 0.024), 0.018), mixed(tones.shade, tones.skin, 0.4))
    under, _ = nose.line(0.5 - wide * 0.8, y + 0.016, 0.5 + wide * 0.8, y + 0.016)
    nose.paint(0.75 * nose.soft(under - np.float32(0.004), 0.022), tones.deep)
    for each in (-1, 1):
        nostril = nose.oval(0.5 + each * wide * 0.52, y + 0.013, 0.0105, 0.0065)
        nose.paint(0.85 * nose.soft(nostril, 0.008), mixed(tones.skin, rgb(60, 15, 20), 0.72))
    nose.paint(
        0.65 * nose.soft(nose.oval(0.5 - side * 0.006, y - 0.008, 0.014, 0.012), 0.022), mixed(tones.skin, WHITE, 0.6)
    )


def paint_eyes(head: Canvas, who: Identity, pose: Pose, tones: Tones) -> None:
    """Paint both eyes and brows."""
    for side in (-1, 1):
        x = 0.5 + side * who.eye_distance
        _eye(head.part(x - 0.1, EYE_Y - 0.075, x + 0.1, EYE_Y + 0.06), who, pose, tones, side, x)
        _brow(head.part(x - 0.1, 0.28, x + 0.1, 0.39), who, pose, tones, side, x)


def _eye(eye: Canvas, who: Identity, pose: Pose, tones: Tones, side: int, x: float) -> None:
    """Paint one eye: white, iris with rim and glow, pupil, highlight, lashes, lower lid, crease; a lid when it closes."""
    high, light = who.eye_height, (1 if who.light > 0 else -1)
    u = (eye.x - np.float32(x)) / np.float32(who.eye_width)  # -1 … 1 from corner to corner
    v = eye.y - np.float32(EYE_Y) + np.float32(who.eye_tilt * 0.8 * side) * u
    arch, across = np.clip(1 - u * u, 0, 1), (np.abs(u) < 1).astype(np.float32)
    raised = -np.float32(high) * arch**0.62  # where the upper lid is in an open eye
    lower = np.float32(high * 0.62 * (1 - 0.25 * pose.blink)) * arch**0.75
    upper = np.minimum(raised * np.float32(1 - pose.blink * LID_REACH), lower)

    def inside(depth: Plane) -> Plane:
        return np.clip(depth * np.float32(1 / eye.pixel) + np.float32(0.5), 0, 1) * across

    if pose.blink > 0:
        eye.paint(0.9 * inside(np.minimum(v - raised, upper - v)), mixed(tones.skin, tones.shade, 0.55))
    seen = inside(np.minimum(v - upper, lower - v))
    shadow = 60 * np.clip(1 - (v - upper) / np.float32(0.022), 0, 1) + 26 * u * u
    eye.paint(seen, rgb(246, 244, 242) - shadow[..., None] * rgb(1, 1.02, 1))

    iris, y, radius = rgb(*who.iris), EYE_Y - 0.003, high * 1.06
    away = np.sqrt((eye.x - np.float32(x)) ** 2 + (v + np.float32(EYE_Y - y)) ** 2)
    glow = np.clip((eye.y - np.float32(y)) / np.float32(radius), 0, 1)
    colours = shaded(
        np.broadcast_to(mixed(iris, WHITE, 0.06), (*u.shape, 3)), mixed(iris, rgb(255, 245, 200), 0.42), glow
    )
    eye.paint(seen * eye.edge(away - np.float32(radius)), mixed(iris, BLACK, 0.62))
    eye.paint(seen * eye.soft(away - np.float32(radius * 0.84), 0.012), colours)
    eye.paint(seen * eye.edge(away - np.float32(radius * 0.42)), rgb(14, 12, 16))
    eye.paint(seen * 0.55 * np.clip(1 - (v - upper) / np.float32(0.012), 0, 1), rgb(30, 18, 20))
    eye.paint(seen * 0.95 * eye.edge(eye.oval(x + 0.011 * light, y - 0.010, 0.0072, 0.0072)), WHITE)

    lash = mixed(tones.hair, rgb(24, 14, 16), 0.75)
    eye.paint(0.95 * inside(0.0075 * (1 - 0.25 * u * u) - np.abs(v - upper + np.float32(0.001))), lash)
    eye.paint(0.35 * inside(np.float32(0.004) - np.abs(v - lower)), tones.deep)
    eye.paint(0.55 * inside(np.float32(0.0042) - np.abs(v - raised + np.float32(0.016))), tones.deep)


def _brow(brow: Canvas, who: Identity, pose: Pose, tones: Tones, side: int, x: float) -> None:
    """Paint one brow: thick at the nose, thin at the temple, raised by the pose."""
    y, tilt = 0.345 - pose.brow * 0.026, who.brow_tilt
    bend = (x + side * 0.012, y - 0.008)
    inner, along = brow.line(x - side * 0.058, y + 0.010 + tilt - pose.brow * 0.004, *bend)
    outer, beyond = brow.line(*bend, x + side * 0.078, y + 0.010 - tilt)
    thick = np.float32(who.brow_width)
    shape = np.minimum(inner - thick * (0.9 + 0.1 * along), outer - thick * (1 - 0.65 * beyond))
    brow.paint(0.92 * brow.soft(shape, 0.012), mixed(tones.hair, rgb(36, 24, 22), 0.35))
