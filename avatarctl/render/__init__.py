"""Render a video from files and settings: durable, resumable, of any length."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avatarctl.progress import Progress, showing
from avatarctl.settings.render import RenderJob

if TYPE_CHECKING:
    from avatarctl.render.inputs import Rendered


def render(job: RenderJob, force: bool = False, show: Progress | None = None) -> Rendered | None:
    """Render a job's video, or go on with it where it stopped.

    ``force`` begins anew and overwrites. ``show`` is called after every window step (None: no reports). Raises an
    ``AvatarError`` for whatever a user can mend; everything done until then is kept in the render folder. Under `torchrun`
    or `accelerate launch` the processes share the work: the first returns the result, the others None.
    """
    from avatarctl.render.journey import journey

    if show is not None:
        return journey(job, force, show)
    with showing("none") as silent:
        return journey(job, force, silent)
