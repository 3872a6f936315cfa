"""Measure whether a video jumps where one window takes over from another."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from avatarctl.audio.track import SAMPLE_RATE_HZ
from avatarctl.errors import InputFileError
from avatarctl.paths import derived
from avatarctl.render.folder import RenderFolder
from avatarctl.render.inputs import job_of, plan_of
from avatarctl.sampling.windows import Plan, pictures_of
from avatarctl.settings.render import RenderSettings


@dataclass(frozen=True)
class Borders:
    """Mean absolute difference of neighbouring pictures in grey levels: the mean ``at`` borders, the median ``elsewhere``."""

    at: float
    elsewhere: float
    count: int

    @property
    def ratio(self) -> float:
        """How many times as large the difference is at borders."""
        return self.at / self.elsewhere if self.elsewhere > 0 else float("inf")


def border_pictures(plan: Plan) -> list[int]:
    """Return the pictures at which a window begins to count, or has just taken over alone: both ends of every overlap."""
    found = set()
    for index in range(1, plan.count):
        for latent in (plan.start_of(index), plan.stop_of(index - 1)):
            if latent < plan.latent_frames:
                found.add(pictures_of(latent))
    return sorted(picture for picture in found if picture < plan.video_frames)


def border_jumps(frames_THWC: NDArray[np.uint8], plan: Plan) -> Borders:
    """Compare differences of neighbouring pictures (T, H, W, 3) at window borders with those elsewhere.

    Raises ``ValueError`` for a video of a single window, which has no borders.
    """
    borders = border_pictures(plan)
    if not borders:
        raise ValueError(f"got {plan.count} window, expected two at least")
    # One picture at a time: an hour of pictures as floats would not fit.
    steps = np.array([np.abs(after.astype(np.int16) - before).mean() for before, after in pairwise(frames_THWC)])
    at = np.zeros(len(steps), bool)
    at[np.array(borders) - 1] = True
    return Borders(float(steps[at].mean()), float(np.median(steps[~at])), len(borders))


def borders_every(window_s: float, fps: Fraction, pictures: int) -> list[int]:
    """Return the pictures at which windows join that begin every so many seconds; none for a step of less than a picture."""
    step = window_s * float(fps)
    return [round(number * step) for number in range(1, int(pictures / step) + 1)] if step >= 1 else []


def borders_beside(video: Path, pictures: int) -> list[int]:
    """Return the pictures at which windows join by the render folder that was kept beside a video; none without one."""
    folder = RenderFolder(derived(video, after=".render"))
    if not folder.exists():
        return []
    try:
        job = job_of(folder.manifest())
    except InputFileError:
        return []
    return borders_of(job.render, pictures)


def borders_of(settings: RenderSettings, pictures: int) -> list[int]:
    """Return the pictures at which windows join in a video of these settings."""
    return border_pictures(plan_of(settings, round(pictures * SAMPLE_RATE_HZ / settings.fps)))
