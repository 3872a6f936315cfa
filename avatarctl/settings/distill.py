"""Settings of students of the guided network: the stages of a curriculum, and what distillation refuses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from avatarctl.settings.base import Settings

if TYPE_CHECKING:
    from avatarctl.settings.train import TrainSettings

# What a student's samples must not be without, since its teacher is never: setting -> what it would leave out.
DROPS = {"drop_audio": "speech", "drop_tokens": "audio tokens", "drop_text": "prompts", "clip_audio": "moments"}


class Stage(Settings):
    """One student of a curriculum; what it leaves out (null) is as the run's settings say."""

    distill: Literal["guidance", "steps"]
    """What is distilled: guidance alone, or steps too."""
    distill_steps: Annotated[int, Field(ge=1, le=64)] | None = None
    """Denoising steps that the student takes."""
    steps: Annotated[int, Field(ge=1)] | None = None
    """Training steps."""
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """How far each step changes the weights."""
    teacher_evaluations: Annotated[int, Field(ge=1, le=64)] | None = None
    """Small steps of the teacher for one of the student's."""
    own_states: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of the student's own paths in what it learns from."""

    def uses(self, name: str) -> bool:
        """Return whether a setting changes anything in this stage: guidance alone knows no steps."""
        return self.distill == "steps" or name not in ("distill_steps", "teacher_evaluations")

    @property
    def own(self) -> dict[str, object]:
        """What the stage says of itself, by setting."""
        return {name: value for name, value in self.model_dump().items() if value is not None}


# The LoRA of a stage, in a folder of its own: what the next one begins with, wherever the curriculum lies.
STAGE = r"\d+-(guidance|steps-\d+)"
BEGINNING = re.compile(rf"(?:.*/)?({STAGE}/lora\.safetensors)")


def place_free(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings, as JSON holds them, in which a LoRA of a stage before is named within its curriculum."""
    begins = BEGINNING.fullmatch(Path(str(values.get("init_lora") or "")).as_posix())
    return {**values, "init_lora": begins[1]} if begins else dict(values)


def stage_settings(settings: TrainSettings) -> list[tuple[str, TrainSettings]]:
    """Return (name, settings) of every stage, in order; names are those of their folders."""
    found = []
    for number, stage in enumerate(settings.stages, 1):
        own = type(settings).model_validate({**settings.model_dump(), **stage.own, "stages": ()})
        what = "guidance" if own.distill == "guidance" else f"steps-{own.distill_steps}"
        found.append((f"{number}-{what}", own))
    return found


def check_student(settings: TrainSettings) -> None:
    """Raise ``ValueError``, beginning with the setting to change, for what can't be distilled so."""
    if settings.stages:
        if len(settings.stages) > 1 and settings.lora_kind != "lora":
            raise ValueError(
                f"lora_kind: got {settings.lora_kind} with stages, expected lora: each stage begins with the factors of the one "
                "before"
            )
        stage_settings(settings)
        return
    if not settings.is_student:
        return
    if not settings.is_lora:
        raise ValueError(
            "distill: got no group that trains by a LoRA, expected some: without it the network is the teacher"
        )
    if full := [name for name in settings.modes if settings.modes[name] == "full"]:
        raise ValueError(
            f"{full[0]}: got full with distill, expected lora or frozen: the teacher is the network without its LoRA, and "
            "would be trained too"
        )
    if dropped := [name for name in DROPS if getattr(settings, name)]:
        more = f", nor {' nor '.join(DROPS[name] for name in dropped[1:])}" if dropped[1:] else ""
        raise ValueError(
            f"{dropped[0]}: got {getattr(settings, dropped[0]):g} with distill, expected 0"
            + (f", as of {', '.join(dropped[1:])}" if dropped[1:] else "")
            + f": the teacher is never without {DROPS[dropped[0]]}{more}; preset distill-1.3b has all of this"
        )
    if settings.dropout:
        raise ValueError(
            f"dropout: got {settings.dropout:g} with distill, expected 0: the student's own paths would be others"
        )
    if settings.compile:
        raise ValueError(
            "compile: got true with distill, expected false: the LoRA is switched on and off between passes"
        )
    if settings.teacher_guidance == "native":
        raise ValueError(
            "teacher_guidance: got native, expected cfg, or a table that says its passes and their weights"
        )
    if settings.distill == "guidance" and not _guides(settings):
        told = settings.teacher_guidance if settings.teacher_guidance == "none" else "a single conditional pass"
        raise ValueError(f"teacher_guidance: got {told} with distill guidance, expected a guidance to learn")
    _check_numbers(settings)


def reads_negative(settings: TrainSettings) -> bool:
    """Return whether a teacher reads the null text."""
    if isinstance(settings.teacher_guidance, tuple):
        return any(row.text == "negative" for row in settings.teacher_guidance)
    return settings.teacher_guidance == "cfg" and _guides(settings)


def _guides(settings: TrainSettings) -> bool:
    """Return whether a teacher makes more than the one conditional pass."""
    if isinstance(settings.teacher_guidance, tuple):
        rows = [row for row in settings.teacher_guidance if row.weight]
        return any((row.text, row.audio, row.tokens) != ("positive", "window", "adapter") for row in rows)
    scales = (settings.teacher_audio_scale, settings.teacher_text_scale)
    return settings.teacher_guidance == "cfg" and scales != (1, 1)


def _check_numbers(settings: TrainSettings) -> None:
    interval, states, batch = settings.teacher_interval, settings.rollout_states, settings.batch_size
    if interval and not 0 <= interval[0] < interval[1] <= 1:
        raise ValueError(f"teacher_interval: got {list(interval)}, expected 0 <= low < high <= 1")
    if isinstance(settings.teacher_guidance, tuple):
        total = sum(row.weight for row in settings.teacher_guidance)
        if abs(total - 1) > 1e-6:
            raise ValueError(f"teacher_guidance: got weights that add up to {total:g}, expected 1")
    if states and states % batch and batch % states:
        raise ValueError(f"rollout_states: got {states} with a batch_size of {batch}, expected one to divide the other")
    if settings.distill == "steps" and settings.accumulate % settings.passes_per_batch:
        raise ValueError(
            f"accumulate: got {settings.accumulate} passes of {batch}, expected a multiple of rollout_states ({states}) "
            "samples: a path is shared out within a step"
        )
