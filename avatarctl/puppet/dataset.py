"""Make a folder of drawn clips from a seed, in the layout that `avatarctl data encode` reads."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from avatarctl.progress import Progress
from avatarctl.puppet.draw import MOUTH_X, MOUTH_Y, SIZE, Identity, Pose, draw, mouth_half_axes
from avatarctl.puppet.folders import missing_clips, writable, write_folder
from avatarctl.puppet.mouth import RATE_HZ, mouth_from_audio
from avatarctl.puppet.voice import Kind, make_pause, make_voice

FPS = Fraction(25)
FRAMES = 81
BEFORE = (80, 20)  # frames of a voice and of quiet before a clip of a pause
SINGING = (7003, 0.15)  # number of the draw, share
# Seeds of the evaluation's faces begin here: beyond those of any training set (seeds up to 2**40, 100,000 clips each).
EVALUATION_SEED = 2**60


def make_dataset(
    output: Path,
    clips: int,
    seed: int,
    show: Progress,
    look: tuple[str, ...] = (),
    size: int = SIZE,
    pauses: bool = False,
    bare_first: bool = False,
) -> int:
    """Make the clips that are missing; return how many were made. Each depends on (seed, number) alone, and is whole or absent.

    ``pauses``: after a voice outside of the clip, nobody speaks in it. ``bare_first``: the first picture lacks the look.

    The truth of a clip: opening and width.
    """
    made = 0
    for folder, clip_seed, kind in missing_clips(output, clips, seed, SINGING, show):
        voice, before = _heard(clip_seed, kind, pauses)
        bare = Identity.of(clip_seed) if bare_first else None
        with writable(output):
            write_clip(folder, Identity.of(clip_seed, look), voice, clip_seed, size, before, bare)
        made += 1
    return made


def _heard(seed: int, kind: Kind, pause: bool) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Return a clip's sound, and what was heard before it: nothing, or a voice that has ended ``BEFORE[1]`` frames ago."""
    length_s = float(FRAMES / FPS)
    if not pause:
        return make_voice(seed, length_s, kind), None
    spoken, quiet = (float(frames / FPS) for frames in BEFORE)
    whole = make_pause(seed, quiet + length_s)
    cut = round(quiet * RATE_HZ)
    return whole[cut:], np.concatenate([make_voice(seed, spoken, kind), whole[:cut]])


def write_clip(
    folder: Path,
    who: Identity,
    voice_T: NDArray[np.float32],
    seed: int,
    size: int = SIZE,
    before_T: NDArray[np.float32] | None = None,
    first: Identity | None = None,
) -> None:
    """Write one clip: pictures whose mouth the voice drives, masks of face and lips, the voice, the truth.

    ``before``: what was heard in the frames before the clip, which tells how loud a voice is; ``first``: who is seen
    in the first picture, if it is another one.
    """
    heard = voice_T if before_T is None else np.concatenate([before_T, voice_T])
    frames = round(len(heard) / RATE_HZ * FPS)
    opening, width = (each[-FRAMES:] for each in mouth_from_audio(heard, frames, FPS))

    def pictures() -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]]:
        for index, pose in enumerate(poses(opening, width, seed)):
            wide, high = mouth_half_axes(pose.opening, pose.width)
            # The whole region in which lips move, a little more than they fill now: what is open next was closed before.
            lips = (max(wide, 0.14) + 0.06, max(high, 0.06) + 0.06)
            yield (
                draw(first if first and index == 0 else who, pose, size),
                _ellipse(size, 0.5 + pose.sway_x, 0.49 + pose.sway_y, who.face_width, who.face_height),
                _ellipse(size, MOUTH_X + pose.sway_x, MOUTH_Y + pose.sway_y, *lips),
            )

    write_folder(folder, pictures(), voice_T, {"opening": opening, "width": width})


def poses(opening: NDArray[np.float64], width: NDArray[np.float64], seed: int) -> list[Pose]:
    """Return the poses of a clip: the mouth as driven, a blink now and then, a head that sways by less than a pixel."""
    chance = np.random.default_rng([seed, 7004])
    frames = np.arange(len(opening))
    blink = np.zeros(len(opening))
    at = chance.uniform(10, 90)
    while at < len(opening):
        blink = np.maximum(blink, np.exp(-0.5 * ((frames - at) / 1.3) ** 2))
        at += chance.uniform(50, 110)
    phases = chance.uniform(0, 2 * np.pi, 2)
    sway_x = 0.010 * np.sin(2 * np.pi * frames / chance.uniform(60, 110) + phases[0])
    sway_y = 0.006 * np.sin(2 * np.pi * frames / chance.uniform(50, 90) + phases[1])
    rows = zip(opening, width, blink, sway_x, sway_y, strict=True)
    return [Pose(*(float(value) for value in row)) for row in rows]


def _ellipse(size: int, x: float, y: float, rx: float, ry: float) -> NDArray[np.uint8]:
    rows, columns = (np.mgrid[:size, :size] + 0.5) / size
    return np.where(((columns - x) / rx) ** 2 + ((rows - y) / ry) ** 2 <= 1, 255, 0).astype(np.uint8)
