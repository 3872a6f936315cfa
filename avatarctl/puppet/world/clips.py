"""A folder of drawn clips from a number and a seed, in the layout that `avatarctl data encode` reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avatarctl.audio.speak import RATE_HZ, Phoneme
from avatarctl.progress import Progress
from avatarctl.puppet.folders import missing_clips, writable, write_folder
from avatarctl.puppet.voice import Kind
from avatarctl.puppet.world.drive import FPS, closures, drive
from avatarctl.puppet.world.face import EYE_Y
from avatarctl.puppet.world.identity import Identity, Pose
from avatarctl.puppet.world.life import poses
from avatarctl.puppet.world.mouth import X, Y
from avatarctl.puppet.world.portrait import SIZE, VIEW, Portrait, in_picture
from avatarctl.puppet.world.voice import Voice, after, make_voice

FRAMES = 81
SINGING = (8003, 0.12)  # number of the draw, share
MID_SPEECH_SHARE = 0.5
LEAD = (20, 80)  # pictures of a voice before a clip that begins amid speech
BEFORE_PAUSE = (80, 20)  # pictures of a voice and of quiet before a clip of a pause
# Where eyes and mouth move, as ellipses (x, y, rx, ry) of the drawing: what counts more in training, and is measured.
MOUTH_REGION = (X, Y + 0.045, 0.180, 0.118)
EYE_REGIONS = ((0.5 - 0.125, EYE_Y - 0.018, 0.110, 0.085), (0.5 + 0.125, EYE_Y - 0.018, 0.110, 0.085))
IRIS_REGIONS = ((0.5 - 0.125, EYE_Y, 0.050, 0.045), (0.5 + 0.125, EYE_Y, 0.050, 0.045))
HEAD_REGION = (0.5, 0.46, 0.36, 0.42)


@dataclass(frozen=True)
class Scene:
    """What a clip's voice does to a face: sound, phonemes in seconds of the clip, a pose for every picture."""

    waveform: NDArray[np.float32]
    phonemes: tuple[Phoneme, ...]
    poses: tuple[Pose, ...]

    @classmethod
    def of(cls, seed: int, kind: Kind, pause: bool = False) -> Scene:
        """Return the scene of a seed; half of them begin amid speech. ``pause``: nobody speaks any more."""
        chance = np.random.default_rng([seed, 8014])
        lead = int(chance.integers(*LEAD)) if chance.random() < MID_SPEECH_SHARE else 0
        if pause:
            spoken, quiet = BEFORE_PAUSE
            lead = spoken + quiet
            voice = after(make_voice(seed, float(spoken / FPS), kind), float((quiet + FRAMES) / FPS), seed)
        else:
            voice = make_voice(seed, float((lead + FRAMES) / FPS), kind)
        return cls.spoken(voice, FRAMES, seed, lead)

    @classmethod
    def spoken(cls, voice: Voice, frames: int, seed: int, lead: int = 0) -> Scene:
        """Return the scene of a voice that begins ``lead`` pictures before the clip."""
        heard = drive(voice.samples, voice.phonemes, lead + frames)
        lead_s = float(lead / FPS)
        phonemes = tuple(each.moved(-lead_s) for each in voice.phonemes if each.stop_s > lead_s)
        waveform = voice.samples[round(lead_s * RATE_HZ) :]
        return cls(waveform, phonemes, tuple(poses(heard, voice.ends_s, seed, lead)))


def make_clips(
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
    """
    made = 0
    for folder, clip_seed, kind in missing_clips(output, clips, seed, SINGING, show):
        scene = Scene.of(clip_seed, kind, pauses)
        bare = Identity.of(clip_seed) if bare_first else None
        with writable(output):
            write_clip(folder, Identity.of(clip_seed, look), scene, size, bare)
        made += 1
    return made


def write_clip(folder: Path, who: Identity, scene: Scene, size: int = SIZE, first: Identity | None = None) -> None:
    """Write one clip: pictures, masks of the head and of what moves in it (mouth and eyes), the voice, the truth.

    ``first``: who is seen in the first picture, if it is another one.
    """
    portrait = Portrait.of(who, size)
    head, moving = region_mask(size, [HEAD_REGION]), region_mask(size, [MOUTH_REGION, *EYE_REGIONS])

    def pictures() -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]]:
        for index, pose in enumerate(scene.poses):
            shown = Portrait.of(first, size) if first and index == 0 else portrait
            yield shown.picture(pose), head, moving

    truth: dict[str, Any] = {"closures": closures(scene.phonemes, len(scene.poses)), **curves(scene.poses)}
    write_folder(folder, pictures(), scene.waveform, truth)


def curves(made: Sequence[Pose]) -> dict[str, NDArray[np.float64]]:
    """Return every part of poses over time (frames,)."""
    return {each.name: np.array([getattr(pose, each.name) for pose in made]) for each in fields(Pose)}


def region_mask(size: int, regions: Sequence[tuple[float, float, float, float]]) -> NDArray[np.uint8]:
    """Return 255 in ellipses of the drawing, 0 elsewhere, (size, size)."""
    rows, columns = (np.mgrid[:size, :size] + 0.5) / size
    inside = np.zeros((size, size), bool)
    for x, y, rx, ry in regions:
        column, row = in_picture(x, y)
        inside |= ((columns - column) * VIEW / rx) ** 2 + ((rows - row) * VIEW / ry) ** 2 <= 1
    return np.where(inside, 255, 0).astype(np.uint8)
