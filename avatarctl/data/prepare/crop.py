"""Place the crop of a clip around its head: one for the whole clip, inside the footage, in the shape of a size."""

from __future__ import annotations

from dataclasses import dataclass
from math import log

from avatarctl.settings.prepare import PrepareSettings

STEP = 2  # sides of clips, in pixels: as coded video has them


@dataclass(frozen=True)
class Cut:
    """A part of the footage in whole pixels (x0, y0, x1, y1), and the size (width, height) at which it is written."""

    box: tuple[int, int, int, int]
    size: tuple[int, int]


def cut_of(head: tuple[float, ...], inside: tuple[int, int, int, int], settings: PrepareSettings) -> Cut:
    """Return the crop of a head (x0, y0, x1, y1) within what is picture (``inside``, in the footage's pixels).

    It is ``margin`` times the head, larger where its size would enlarge it by more than ``max_enlarge``, and never larger
    than the footage; where even that is too small, the clip is written smaller.
    """
    left, top, right, bottom = inside
    room = right - left, bottom - top
    size = nearest(room, settings)
    width, height = size
    # The crop's height decides; its width goes with it.
    shape = width / height
    wanted = settings.margin * max(head[3] - head[1], (head[2] - head[0]) / shape)
    wanted = max(wanted, height / settings.max_enlarge)
    tall = min(wanted, room[1], room[0] / shape)
    wide = tall * shape
    x = min(max((head[0] + head[2] - wide) / 2, left), right - wide)
    # A head with its margin stands in the middle; what is cut off is cut off below rather than above.
    y = min(max((head[1] + head[3] - tall) / 2, top), bottom - tall)
    box = (round(x), round(y), round(x) + max(round(wide), 1), round(y) + max(round(tall), 1))
    box = (box[0], box[1], min(box[2], right), min(box[3], bottom))
    enlarged = min(tall * settings.max_enlarge / height, 1.0)
    return Cut(box, (_side(width * enlarged), _side(height * enlarged)))


def nearest(room: tuple[int, int], settings: PrepareSettings) -> tuple[int, int]:
    """Return the size that is nearest in shape to what is picture."""
    shape = log(max(room[0], 1) / max(room[1], 1))
    return min(settings.sizes, key=lambda size: round(abs(log(size[0] / size[1]) - shape), 6))


def _side(length: float) -> int:
    return max(int(length + 0.5) // STEP * STEP, STEP)
