"""Measure a validation video, for the metrics of its run: the row that `avatarctl evaluate` makes of it."""

from __future__ import annotations

from typing import Any

from avatarctl.console import note
from avatarctl.errors import AvatarError
from avatarctl.evaluation.gate import AT_LEAST, AT_MOST, value_of
from avatarctl.evaluation.renders import evaluate_render
from avatarctl.progress import showing
from avatarctl.render.inputs import Rendered
from avatarctl.settings.render import RenderJob


def measured(job: RenderJob, rendered: Rendered, number: int) -> dict[str, Any]:
    """Return the metrics of a validation video: its row, and each number of it by itself, for TensorBoard.

    What can't be measured is noted and ends no training.
    """
    try:
        with showing("none") as silent:
            row = evaluate_render(job, rendered.pictures, rendered.framing, silent)
    except AvatarError as error:
        note(f"validation video: {job.output}: not measured: {error.message}")
        return {"validation": {"path": str(job.output), "why": error.message}}
    values = {key: value_of(row, key) for key in (*AT_LEAST, *AT_MOST) if "." in key}
    return {
        "validation": row,
        **{f"validation-{number:02d}/{key}": value for key, value in values.items() if value is not None},
    }
