"""Make a folder of drawn clips from a seed, in the layout that `avatarctl data encode` reads."""

from __future__ import annotations

import shutil
import wave
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from avatarctl import durable
from avatarctl.progress import Progress
from avatarctl.puppet.draw import MOUTH_X, MOUTH_Y, SIZE, Identity, Pose, draw, mouth_half_axes
from avatarctl.puppet.mouth import RATE_HZ, mouth_from_audio
from avatarctl.puppet.voice import Kind, make_pause, make_voice

FPS = Fraction(25)
FRAMES = 81
BEFORE = (80, 20)  # frames of a voice and of quiet before a clip of a pause
SINGING_SHARE = 0.15
# Seeds of the evaluation's faces begin here: beyond those of any training set (seeds up to 2**40, 100,000 clips each).
EVALUATION_SEED = 2**60
TRUTH = "truth.npz"


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
    """Make the clips that are missing; give how many were made. Each depends on (seed, number) alone, and is whole or absent.

    ``pauses``: after a voice outside of the clip, nobody speaks in it. ``bare_first``: the first picture lacks the look.

    ``square/speech|singing/NNNNN/{images,face_masks,lip_masks}/*.png``, ``audio.wav``, and ``truth.npz`` (opening, width).
    """
    made = 0
    for number in range(clips):
        clip_seed = seed * 100_003 + number
        kind: Kind = "singing" if np.random.default_rng([clip_seed, 7003]).random() < SINGING_SHARE else "speech"
        folder = output / "square" / kind / f"{number:05d}"
        if not folder.is_dir():
            made += 1
            voice, before = _heard(clip_seed, kind, pauses)
            bare = Identity.of(clip_seed) if bare_first else None
            with durable.guarded(output, "free some space and run the same command again", "choose another --output"):
                write_clip(folder, Identity.of(clip_seed, look), voice, clip_seed, size, before, bare)
        show(number + 1, clips)
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
    part = durable.part_of(folder)
    shutil.rmtree(part, ignore_errors=True)
    for name in ("images", "face_masks", "lip_masks"):
        (part / name).mkdir(parents=True)
    heard = voice_T if before_T is None else np.concatenate([before_T, voice_T])
    frames = round(len(heard) / RATE_HZ * FPS)
    opening, width = (each[-FRAMES:] for each in mouth_from_audio(heard, frames, FPS))
    for index, pose in enumerate(poses(opening, width, seed)):
        name = f"frame_{index}.png"
        _save(draw(first if first and index == 0 else who, pose, size), part / "images" / name)
        _save(
            _ellipse(size, 0.5 + pose.sway_x, 0.49 + pose.sway_y, who.face_width, who.face_height),
            part / "face_masks" / name,
        )
        wide, high = mouth_half_axes(pose.opening, pose.width)
        lips = (max(wide, 0.14) + 0.06, max(high, 0.06) + 0.06)
        # The whole region in which lips move, a little more than they fill now: what is open next was closed before.
        _save(
            _ellipse(size, MOUTH_X + pose.sway_x, MOUTH_Y + pose.sway_y, *lips),
            part / "lip_masks" / name,
        )
    with wave.open(str(part / "audio.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes((voice_T * 32767).astype("<i2").tobytes())
    np.savez(part / TRUTH, opening=opening, width=width)
    part.rename(folder)


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


def _save(pixels: NDArray[np.uint8], path: Path) -> None:
    Image.fromarray(pixels).save(path, compress_level=1)
