"""What else a speaking face does: it blinks, nods and raises its brows with the voice, from a pose of rest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from avatarctl.puppet.mouth import smooth
from avatarctl.puppet.world.drive import FPS, Drive
from avatarctl.puppet.world.identity import Pose

CLOSING, OPENING = 2.5, 4.0  # pictures of a blink: six or seven in all
# Pictures from blink to blink: at least, when one comes at the end of a phrase; else a wait by chance.
APART, WAIT = 36, (60, 120)
FIRST = 6  # the first picture is at rest, eyes open
# Pictures from a phrase's end to the blink: each comes where it can be heard, so that it can be learnt.
AFTER_AN_END = 2.0
STRESS_FRAMES, TILT_FRAMES = 6.0, 10.0  # deviations of Gaussians: slow sound
FROM_REST = {True: 2.0, False: 6.0}  # pictures in which two thirds of a motion are there: amid speech, else


def poses(heard: Drive, ends_s: Sequence[float], seed: int, lead: int = 0) -> list[Pose]:
    """Return the poses of a clip, the first of them at rest.

    ``heard`` and ``ends_s`` (ends of phrases) begin ``lead`` pictures before the clip: with a lead it begins amid speech.
    Head and brows follow the voice's slow level and the vowels' slow width, with a little chance: what is not heard
    could not be told from the sound, and windows of a long video would not agree on it.
    """
    chance = np.random.default_rng([seed, 8004])
    pictures = np.arange(len(heard.opening))
    stress, tilt = _slow(heard.opening, STRESS_FRAMES), _slow(heard.width * heard.opening, TILT_FRAMES)
    phases, periods = chance.uniform(0, 2 * np.pi, 3), chance.uniform(60, 120, 3)
    sway, turn, raise_ = np.sin(2 * np.pi * pictures / periods[:, None] + phases[:, None])
    motion = {
        "brow": np.clip(0.5 * stress + 0.1 * raise_, -0.4, 1),
        "x": 0.006 * sway,
        "y": 0.006 * stress,
        "roll": 0.018 * tilt + 0.006 * turn,
        "yaw": 0.007 * turn + 0.005 * tilt,
        "nod": 0.011 * stress,
    }
    clip, since = heard.since(lead), np.arange(len(pictures) - lead)
    there = 1 - np.exp(-since / FROM_REST[lead > 0])
    rows = {
        "opening": clip.opening,
        "width": clip.width,
        "press": clip.press,
        "blink": blinks(len(since), [end_s * float(FPS) - lead for end_s in ends_s], chance),
        **{name: values[lead:] * there for name, values in motion.items()},
    }
    moments = [Pose(**{name: float(values[index]) for name, values in rows.items()}) for index in since]
    return [Pose(), *moments[1:]]


def blinks(count: int, ends: Sequence[float], chance: np.random.Generator) -> NDArray[np.float64]:
    """Return how far lids are shut (count,), 0 … 1. ``ends``: pictures at which a phrase ends, when many people blink."""
    wanted = sorted(end + AFTER_AN_END for end in ends if end > 0)
    moments: list[float] = []
    by_chance = chance.uniform(12, WAIT[1])
    for end in [*wanted, np.inf]:
        while by_chance < min(end, count + CLOSING):
            moments.append(by_chance)
            by_chance += chance.uniform(*WAIT)
        if FIRST <= end < count + CLOSING and (not moments or end - moments[-1] >= APART):
            moments.append(end)
            by_chance = end + chance.uniform(*WAIT)
    pictures = np.arange(count)
    shut = np.zeros(count)
    for moment in moments:
        away = pictures - moment
        shut = np.maximum(shut, np.clip(np.where(away < 0, 1 + away / CLOSING, 1 - away / OPENING), 0, 1))
    return shut


def _slow(values: NDArray[np.float64], deviation: float) -> NDArray[np.float64]:
    """Return slow changes of values about their mean, in -1 … 1."""
    slow = smooth(values, deviation)
    return np.clip((slow - slow.mean()) / max(slow.std(), 0.05) / 2.5, -1, 1)
