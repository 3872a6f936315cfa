"""Tell settings of a training run that were given and have no effect beside the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from avatarctl.errors import UsageError
from avatarctl.settings.distill import reads_negative
from avatarctl.settings.train import TrainSettings

Rule = tuple[Callable[[TrainSettings], bool], str]
LORA: Rule = (lambda s: s.is_lora, "no group is trained by a LoRA")
LOGIT: Rule = (lambda s: s.time == "logit-normal" and s.distill != "steps", "time is uniform, or distilled in steps")
STUDENT: Rule = (lambda s: s.is_student or bool(s.stages), "distill is none")
STEPS: Rule = (lambda s: s.distill == "steps" or bool(s.stages), "distill isn't steps")
HOLDOUT: Rule = (lambda s: s.holdout > 0, "holdout is 0")
VALIDATE: Rule = (lambda s: s.validate_every > 0, "validate_every is 0")
# Setting -> when it counts, and why it doesn't.
RULES: Mapping[str, Rule] = {
    "variant": (
        lambda s: s.dims is None and not (s.weights is not None and s.weights.is_file()),
        "the weights to start from are another thing",
    ),
    **dict.fromkeys(("rank", "alpha", "dropout", "lora_format", "lora_kind", "rslora"), LORA),
    **dict.fromkeys(("logit_mean", "logit_std"), LOGIT),
    **dict.fromkeys(("face_weight", "lip_weight"), (lambda s: s.whole_probability > 0, "whole_probability is 0")),
    "normalise_masks": (lambda s: s.whole_probability < 1, "whole_probability is 1"),
    "motion_axis": (lambda s: s.motion_weight > 0, "motion_weight is 0"),
    "null_text": (
        lambda s: s.drop_text > 0 or ((s.is_student or bool(s.stages)) and reads_negative(s)),
        "drop_text is 0, and no teacher reads it",
    ),
    **dict.fromkeys(
        ("time", "stratify"), (lambda s: s.distill != "steps", "a student of steps learns at its own path's")
    ),
    "clip_fall_steps": (lambda s: max(s.clip_start, s.clip_outliers) > 1, "clip_start and clip_outliers are 1"),
    "decay_floor": (lambda s: s.decay != "constant", "decay is constant"),
    "decay_cycles": (lambda s: s.decay == "cosine_with_restarts", "decay isn't cosine_with_restarts"),
    "decay_power": (lambda s: s.decay == "polynomial", "decay isn't polynomial"),
    **dict.fromkeys(("teacher_guidance", "teacher_interval", "teacher_lora", "own_states", "error_floor"), STUDENT),
    **dict.fromkeys(
        ("teacher_audio_scale", "teacher_text_scale"),
        (lambda s: (s.is_student or bool(s.stages)) and s.teacher_guidance == "cfg", "no teacher is guided by cfg"),
    ),
    **dict.fromkeys(("distill_steps", "teacher_evaluations", "rollout_states"), STEPS),
    "distill": (lambda s: not s.stages, "the stages say what is distilled"),
    "holdout_every": HOLDOUT,
    **{f"validation_{name}": VALIDATE for name in ("images", "audio", "prompts", "seeds", "preset")},
}


def refuse_without_effect(settings: TrainSettings, given: Mapping[str, str]) -> None:
    """Raise ``UsageError`` with every setting that was given (name -> flag) and changes nothing beside the others."""
    idle = {name: why for name, (counts, why) in RULES.items() if name in given and not counts(settings)}
    if idle:
        lines = [f"{name} ({given[name]}): has no effect: {why}" for name, why in idle.items()]
        raise UsageError(
            "\n".join(lines), f"leave out {', '.join(given[name] for name in idle)}, or change what it depends on"
        )
