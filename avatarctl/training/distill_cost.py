"""What a step of distillation costs, in passes of the network, from the settings alone."""

from __future__ import annotations

from avatarctl.sampling import guidance
from avatarctl.sampling.passes import noise_levels
from avatarctl.settings.train import TrainSettings
from avatarctl.training.distill_draws import FEWEST, MOST
from avatarctl.training.distill_teacher import scheme_of

# A pass with its way back, in forward passes; with checkpointing its blocks are computed once more.
TRAINED, CHECKPOINTED = 3.0, 4.0


def passes_of_state(settings: TrainSettings) -> tuple[float, float, float]:
    """Return (student, teacher, path): the forward passes that one learnt state costs, on average over noise levels.

    A path is shared by the states that are learnt from it, and is walked up to the last of them.
    """
    scheme, interval, shift = scheme_of(settings), settings.teacher_interval, settings.shift
    own = settings.own_states if settings.own_states is not None else float(settings.distill == "steps")
    student = CHECKPOINTED if settings.gradient_checkpointing else TRAINED
    if settings.distill == "guidance":
        levels = noise_levels(1000, shift, "uniform")
        teacher = sum(len(guidance.active(scheme, level, interval)) for level in levels) / len(levels)
        return student, teacher, own * ((FEWEST + MOST) / 2 - 1)
    steps, small = settings.distill_steps, settings.teacher_evaluations
    levels = noise_levels(steps * small, shift, "uniform")
    teacher = sum(len(guidance.active(scheme, level, interval)) for level in levels) / steps
    shared = settings.states_per_clip * settings.passes_per_batch
    return student, teacher, own * (steps - 1) / shared


def in_words(settings: TrainSettings) -> str:
    """Return a stage in a line: what is distilled, from which teacher, and the cost of a step beside that of a plain LoRA."""
    student, teacher, path = passes_of_state(settings)
    what = "guidance alone" if settings.distill == "guidance" else f"{settings.distill_steps} steps"
    passes = len(scheme_of(settings))
    times = (student + teacher + path) / student
    return (
        f"{what}, {settings.steps} training steps; teacher: {passes} passes; a step costs {times:.1f} times that of a plain "
        f"LoRA (calculated: student {student:g}, teacher {teacher:.1f}, own path {path:.1f} passes)"
    )
