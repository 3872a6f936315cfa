"""A drawn person: what stays still is painted once, then every pose gives a picture."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from avatarctl.puppet.world.face import paint_ears, paint_eyes, paint_face, paint_neck, paint_nose
from avatarctl.puppet.world.hair import paint_back_hair, paint_front_hair, paint_look
from avatarctl.puppet.world.identity import Identity, Pose
from avatarctl.puppet.world.mouth import paint_mouth
from avatarctl.puppet.world.scene import Tones, paint_body, paint_room
from avatarctl.puppet.world.shapes import Canvas

SIZE = 128
VIEW, CENTRE = 0.90, (0.5, 0.512)  # what the picture shows of the unit square
NECK = (0.5, 0.92)  # that the head turns about
# How much a part moves when the head turns aside or nods: what is nearer moves more.
BACK, FRONT, EYES, NOSE = -0.6, 0.3, 1.0, 1.5


@dataclass(frozen=True)
class Portrait:
    """A person in a room, ready to be drawn in any pose."""

    who: Identity
    room: Canvas
    body: Canvas

    @classmethod
    def of(cls, who: Identity, size: int = SIZE) -> Portrait:
        """Paint what stays still."""
        room, body = (Canvas.of(size, VIEW, CENTRE, channels) for channels in (3, 4))
        paint_room(room, who)
        paint_body(body, who, Tones.of(who))
        return cls(who, room, body)

    def picture(self, pose: Pose) -> NDArray[np.uint8]:
        """Draw one picture (size, size, 3)."""
        who, tones = self.who, Tones.of(self.who)
        canvas = replace(self.room, pixels=self.room.pixels.copy())
        head = canvas.moved(pose.x, pose.y).turned(pose.roll, NECK)
        back, front, eyes, near = (
            head.moved(pose.yaw * depth, pose.nod * depth) for depth in (BACK, FRONT, EYES, NOSE)
        )
        paint_back_hair(back, who, tones)
        paint_neck(canvas.moved(0.4 * pose.x, 0), tones)  # it follows the head by less than half
        canvas.put(self.body)
        paint_ears(back, who, tones)
        covered = paint_face(front, eyes, who, pose, tones)
        paint_nose(near, who, tones)
        paint_eyes(eyes, who, pose, tones)
        paint_mouth(eyes, who, pose, tones)
        paint_front_hair(front, who, tones, covered)
        paint_look(front, eyes, who, tones)
        return np.clip(canvas.pixels + 0.5, 0, 255).astype(np.uint8)


def draw(who: Identity, pose: Pose, size: int = SIZE) -> NDArray[np.uint8]:
    """Draw one picture (size, size, 3) of a person."""
    return Portrait.of(who, size).picture(pose)


def in_picture(x: float, y: float) -> tuple[float, float]:
    """Return where a point of the drawing lies in the picture, in units of the picture's side."""
    return (x - CENTRE[0]) / VIEW + 0.5, (y - CENTRE[1]) / VIEW + 0.5
