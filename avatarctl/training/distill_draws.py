"""Every random draw of a student's path from (seed, step, number of the path): the same after any resume, in any process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from avatarctl.settings.train import TrainSettings
from avatarctl.training.draws import seed_of

# Steps of the paths that a student of any number of steps learns from, where it learns from its own.
FEWEST, MOST = 6, 11


@dataclass(frozen=True)
class PathDraws:
    """What chance decides for one path of a batch of clips.

    ``own``: whether the student walks it, or it is the straight line from noise to the clip; ``steps``: of its grid; ``noise``
    (clips, C, T, H, W): where it begins; ``picks``: the grid's places that are learnt from, as many as states of a path.
    """

    own: bool
    steps: int
    noise: Tensor
    picks: tuple[int, ...]


def draw_path(
    settings: TrainSettings, step: int, path: int, clips: int, states: int, shape_CTHW: Sequence[int]
) -> PathDraws:
    """Draw path number ``path`` of a step: its places are spread evenly over the grid, one out of each share of it."""
    generator = torch.Generator().manual_seed(seed_of(settings.seed, step, "path", path))
    uniform = torch.rand(2 + states, generator=generator, dtype=torch.float64).tolist()
    share = settings.own_states if settings.own_states is not None else float(settings.distill == "steps")
    count = settings.distill_steps
    if settings.distill == "guidance":
        count = FEWEST + int(uniform[1] * (MOST - FEWEST + 1))
    picks = tuple(min(int(count * (place + u) / states), count - 1) for place, u in enumerate(uniform[2:]))
    return PathDraws(uniform[0] < share, count, noise_of(shape_CTHW, settings.seed, step, "noise", path, clips), picks)


def noise_of(shape_CTHW: Sequence[int], *names: int | str) -> Tensor:
    """Return noise of some clips (clips, C, T, H, W); the last name is their number."""
    *before, clips = names
    rows = []
    for clip in range(int(clips)):
        generator = torch.Generator().manual_seed(seed_of(*before, clip))
        rows.append(torch.randn(tuple(shape_CTHW), generator=generator))
    return torch.stack(rows)
