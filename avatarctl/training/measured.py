"""Measure a validation video for the metrics of its run, as `avatarctl evaluate` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from avatarctl.errors import AvatarError
from avatarctl.evaluation.asked import Asked
from avatarctl.evaluation.evaluate import evaluate
from avatarctl.evaluation.gate import AT_LEAST, AT_MOST, value_of
from avatarctl.networks.placement import device_named
from avatarctl.progress import showing


def measured(video: Path, picture: Path, _recording: Path) -> dict[str, Any]:
    """Return the numbers of a video's row by their names, such as ``lips.correlation``, and the codes of its findings.

    Its own sound is the recording. What can't be measured is said, and ends no training.
    """
    try:
        with showing("none") as silent:
            row = evaluate(Asked(video, reference=picture, optional=True), silent, str(device_named("auto"))).row
    except AvatarError as error:
        return {"not_measured": error.message}
    values = {key: value_of(row, key) for key in (*AT_LEAST, *AT_MOST) if "." in key}
    numbers = {key: value for key, value in values.items() if value is not None}
    return {**numbers, "findings": [each["code"] for each in row["findings"]]}
