"""Evaluate a video that was just rendered: its job knows the picture, the recording and where windows join."""

from __future__ import annotations

from typing import Any

from avatarctl.evaluation.asked import Asked
from avatarctl.evaluation.evaluate import evaluate
from avatarctl.evaluation.windows import borders_of
from avatarctl.networks.placement import device_named
from avatarctl.progress import Progress
from avatarctl.render.crop import Framing
from avatarctl.settings.render import RenderJob


def evaluate_render(job: RenderJob, pictures: int, framing: Framing | None, show: Progress) -> dict[str, Any]:
    """Return the row of a job's video against the job's picture. Raises what :func:`evaluate` raises."""
    asked = Asked(
        job.output,
        reference=job.image,
        face_in=framing.box if framing is not None else None,
        borders=borders_of(job.render, pictures),
        optional=True,
    )
    return evaluate(asked, show, str(device_named(job.placement.device))).row
