"""The stages of a preset beside what the command line and presets of one's own say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from avatarctl import console
from avatarctl.errors import UsageError

if TYPE_CHECKING:
    from avatarctl.settings.train import TrainSettings


def one_student(values: dict[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the stages of a preset where one student is asked for: --distill trains it alone."""
    if "distill" not in flags or not values.get("stages") or "stages" in flags:
        return values
    console.note(f"--distill {flags['distill']}: one student, without the stages of the preset")
    return {**values, "stages": ()}


def refuse_of_stages(settings: TrainSettings, places: Mapping[str, str]) -> None:
    """Refuse what a user said and every stage that would use it says for itself; ``places``: where each setting is from.

    Beside the stages, in the same file, it is what a single student takes: `--distill` trains one without the stages.
    """
    from avatarctl.settings.distill import Stage
    from avatarctl.settings.student import said

    for name in Stage.model_fields:
        using = [stage for stage in settings.stages if stage.uses(name)]
        file = _file(places.get(name, ""))
        beside = file != "" and file == _file(places.get("stages", ""))
        if settings.stages and said(name, places) and not beside and all(name in stage.own for stage in using):
            why = f"each of the {len(using)} stages that use it has its own" if using else "no stage uses it"
            raise UsageError(
                f"{name} ({places[name]}): has no effect: {why}",
                "train one student with --distill guidance or --distill steps, or give all with --set 'stages=[...]'",
            )


def _file(place: str) -> str:
    """Return the file that a place such as "mine.yaml, line 3" is in."""
    return place.rpartition(", line ")[0]
