"""Measure whether a video jumps where one window takes over from another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from avatarctl.sampling.windows import Plan, pictures_of


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


def border_jumps(frames_THWC: NDArray[np.uint8], plan: Plan, mask_HW: NDArray[np.bool_] | None = None) -> Borders:
    """Compare differences of neighbouring pictures at window borders with those elsewhere, where ``mask`` is true.

    Raises ``ValueError`` for a video of a single window, which has no borders.
    """
    borders = border_pictures(plan)
    if not borders:
        raise ValueError(f"got {plan.count} window, expected two at least")
    kept = frames_THWC if mask_HW is None else frames_THWC[:, mask_HW]
    # One picture at a time: an hour of pictures as floats would not fit.
    steps = np.array(
        [np.abs(kept[i].astype(np.int16) - kept[i - 1].astype(np.int16)).mean() for i in range(1, len(kept))]
    )
    at = np.zeros(len(steps), bool)
    at[np.array(borders) - 1] = True
    return Borders(float(steps[at].mean()), float(np.median(steps[~at])), len(borders))
