"""Write the clips of a file in one pass over its pictures: video, masks, sound and caption; each is whole or absent."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from glob import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from avatarctl import durable
from avatarctl.audio.track import SoundTrack
from avatarctl.data.clips import Film, Picture, stream
from avatarctl.data.discover import MASKS
from avatarctl.data.prepare.crop import Cut
from avatarctl.data.prepare.cut_sound import write_sound
from avatarctl.data.prepare.encoder import Encoder
from avatarctl.data.prepare.scan import FPS
from avatarctl.errors import InputFileError
from avatarctl.faces.find import covered, face_from, find_faces
from avatarctl.faces.landmarks import PRESENT, Landmarks, landmarks_of_many
from avatarctl.faces.regions import face_mask, lip_mask
from avatarctl.settings.prepare import PrepareSettings

# Near-lossless pictures, lossless masks, lossless sound. One thread: the bytes depend on the pictures alone.
PICTURES = ("-c:v", "libx264", "-preset", "fast", "-crf", "12", "-pix_fmt", "yuv420p", "-threads", "1")
COLOURS = (
    *("-vf", "scale=out_color_matrix=bt709:out_range=tv", "-colorspace", "bt709", "-color_primaries", "bt709"),
    *("-color_trc", "bt709", "-color_range", "tv"),
)
GREY = ("-c:v", "ffv1", "-level", "3", "-pix_fmt", "gray", "-threads", "1")
PLAIN = ("-fflags", "+bitexact", "-flags", "+bitexact", "-map_metadata", "-1")


@dataclass(frozen=True)
class Order:
    """A clip to be written: pictures ``start`` to ``end``, the crop, by how much later its sound is taken, where it goes.

    ``box``: where the face is in the footage, in its pixels.
    """

    start: int
    end: int
    cut: Cut
    box: tuple[float, ...]
    moved_s: float
    target: Path

    @property
    def caption(self) -> Path:
        """Return where the caption goes."""
        return self.target.with_suffix(".txt")

    @property
    def done(self) -> bool:
        """Return whether the clip is whole."""
        return self.target.exists() and self.caption.exists()

    @property
    def masks(self) -> dict[str, Path]:
        """Return where the masks go."""
        folder = self.target.parent / MASKS
        return {part: folder / f"{self.target.stem}.{part}.mkv" for part in ("face", "lip")}


def write_clips(
    film: Film,
    sound: SoundTrack,
    orders: list[Order],
    settings: PrepareSettings,
    caption: Callable[[Path], str],
    device: str,
) -> Iterator[Order]:
    """Write the clips that aren't done, and return each as it is.

    The caption comes last: a clip that a kill left without it is written again.
    """
    left = sorted((order for order in orders if not order.done), key=lambda order: order.start)
    running: list[_Running] = []
    with ExitStack() as stack, closing(stream(film, (film.width, film.height), FPS)) as pictures:
        for number, picture in enumerate(pictures):
            while left and left[0].start == number:
                running.append(stack.enter_context(closing(_Running(left.pop(0), sound, settings, device))))
            for each in list(running):
                each.add(picture)
                if number + 1 == each.order.end:
                    each.finish(caption)
                    each.close()
                    running.remove(each)
                    yield each.order
            if not left and not running:
                return
    if left or running:
        order = (running[0].order if running else left[0]).target
        raise InputFileError(f"{film.path}: got fewer pictures than a moment ago (while {order.name} was written)")


class _Running:
    """A clip that is being written: three encoders that take pictures, and the face they follow."""

    def __init__(self, order: Order, sound: SoundTrack, settings: PrepareSettings, device: str) -> None:
        self.order, self._settings, self._device = order, settings, device
        self._points: Landmarks | None = None
        x0, y0, x1, y1 = order.cut.box
        scale = np.array([order.cut.size[0] / (x1 - x0), order.cut.size[1] / (y1 - y0)] * 2)
        self._box = (np.array(order.box) - np.array([x0, y0, x0, y0])) * scale
        for path in (order.target, order.target.with_suffix(".wav"), *order.masks.values()):
            durable.make_folder(path.parent)
            for left in path.parent.glob(f".{escape(path.name)}.*{durable.PART}"):  # of a process that was killed
                left.unlink(missing_ok=True)
        self._parts = {path: durable.part_of(path) for path in (order.target, *order.masks.values())}
        self._sound = durable.part_of(order.target.with_suffix(".wav"))
        self._encoders: dict[Path, Encoder] = {}
        write_sound(self._sound, sound, order.start, order.end, order.moved_s)
        size = order.cut.size
        hear = ["-i", f"file:{self._sound}", "-map", "0:v:0", "-map", "1:a:0", "-c:a", "alac"]
        container = ["-f", "mp4", "-movflags", "+faststart"]
        self._encoders[order.target] = Encoder(
            self._parts[order.target], size, "rgb24", [*hear, *PICTURES, *COLOURS, *PLAIN, *container]
        )
        for path in order.masks.values():
            self._encoders[path] = Encoder(self._parts[path], size, "gray", [*GREY, *PLAIN, "-f", "matroska"])

    def add(self, picture: Picture) -> None:
        """Write a picture of the footage, and the masks of it."""
        x0, y0, x1, y1 = self.order.cut.box
        part = Image.fromarray(picture[y0:y1, x0:x1])
        if part.size != self.order.cut.size:
            part = part.resize(self.order.cut.size, Image.Resampling.LANCZOS)
        pixels = np.asarray(part)
        self._encoders[self.order.target].write(pixels)
        self._follow(pixels)
        width, height = self.order.cut.size
        for name, draw in (("face", face_mask), ("lip", lip_mask)):
            points = self._points
            mask = np.zeros((height, width), np.uint8) if points is None else draw(points.points_N2, width, height)
            self._encoders[self.order.masks[name]].write(grown(mask, self._settings.grow_masks))

    def _follow(self, pixels: NDArray[np.uint8]) -> None:
        """Find the points of the face; where it is hidden for a moment, the last ones are kept."""
        if self._points is not None:
            [found] = landmarks_of_many([(pixels, self._points)], self._device)
            if found.presence > PRESENT:
                self._points = found
                return
        faces = find_faces(pixels, self._device, small=False)
        where = self._box if self._points is None else face_from(self._points).box
        nearest = max(faces, key=lambda face: covered(face.box, where), default=None)
        if nearest is not None:
            self._points = Landmarks(nearest.points_N3, nearest.presence)

    def finish(self, caption: Callable[[Path], str]) -> None:
        """Close the files and give them their names, then write the caption."""
        for encoder in self._encoders.values():
            encoder.finish()
        self.order.caption.unlink(missing_ok=True)
        for path, part in self._parts.items():
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.replace(path)
            durable.flush_folder(path.parent)
        durable.replace(self.order.caption, (caption(self.order.target) + "\n").encode())

    def close(self) -> None:
        """End the encoders, and take away what isn't whole."""
        for encoder in self._encoders.values():
            encoder.close()
        for path in (*self._parts.values(), self._sound):
            path.unlink(missing_ok=True)


def grown(mask: NDArray[np.uint8], pixels: int) -> NDArray[np.uint8]:
    """Return a mask made larger by so many pixels all around."""
    return np.asarray(Image.fromarray(mask).filter(ImageFilter.MaxFilter(2 * pixels + 1))) if pixels else mask
