"""Find where sampling resumes: what is still needed, what of it is lost, and the state to continue from."""

from __future__ import annotations

from dataclasses import dataclass

from avatarctl.render import frontier
from avatarctl.render.delivered import was_delivered
from avatarctl.render.folder import RenderFolder
from avatarctl.render.frames import window_file
from avatarctl.sampling.windows import Plan


@dataclass(frozen=True)
class StartingPoint:
    """The windows in flight to continue from; the first window whose final latents have to be written, and the last one.

    ``last_lost`` is -1 when nothing is missing.
    """

    saved: frontier.Frontier
    write_from: int
    last_lost: int


def find_starting_point(folder: RenderFolder, plan: Plan, steps: int, needed: list[int]) -> StartingPoint:
    """Return where to continue so that the final latents of the ``needed`` windows are all there.

    When some are lost, or the frontier is, sampling begins again so many windows earlier that what is missing to its left
    can't reach the first lost one: ``plan.reach`` windows per step.
    """
    saved = frontier.load(folder)
    if was_delivered(folder):  # and kept: made whole again, also where the video needs it no more
        needed = list(range(plan.count))
        folder.forget_damaged(frontier.FOLDER)
    lost = [window for window in needed if not folder.valid(window_file(window))]
    if not lost:
        return StartingPoint(frontier.Frontier({}, plan.count), plan.count, -1)
    if saved is not None and lost[0] >= saved.first:
        return StartingPoint(saved, lost[0], lost[-1])
    origin = max(lost[0] - plan.reach * steps - 1, 0)
    if folder.listed("windows"):
        folder.event("again", window=origin, lost=lost[:8])
    folder.forget_all(folder.listed(frontier.FOLDER))
    return StartingPoint(frontier.Frontier({}, origin), lost[0], lost[-1])
