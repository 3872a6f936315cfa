"""What a student's file tells of itself, and what a run refuses to distil from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedType

from avatarctl.data.shards import read_about
from avatarctl.errors import UsageError
from avatarctl.settings.train import TrainJob
from avatarctl.settings.values import parse_lora
from avatarctl.training.distill_teacher import scheme_of
from avatarctl.training.model import teacher_loras
from avatarctl.training.samples import Samples

VERSION = 1


def student_facts(job: TrainJob, samples: Samples, base: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `generate` and people need to know of a student; ``base``: file and SHA-256 of what it was made on.

    No path, nothing of this machine. ``negative_prompt``: the teacher's, where it reads one: its effect is in the student.
    """
    settings, scheme = job.train, scheme_of(job.train)
    negative = settings.null_text == "negative" and any(inputs.text == "negative" for inputs in scheme)
    text = str(read_about(job.data).get("settings", {}).get("negative_prompt", "")) if negative else ""
    rows = [
        {"text": inputs.text, "audio": inputs.audio, "tokens": inputs.tokens, "weight": weight}
        for inputs, weight in scheme.items()
    ]
    loras = []
    for number, given in enumerate(settings.teacher_lora, 1):
        name, scale = parse_lora(given)
        was = base.get(f"teacher_lora {number}", {"path": name, "sha256": ""})  # as it was when the run began
        loras.append({"name": Path(was["path"]).name, "sha256": was["sha256"], "scale": scale})
    small = {"solver": "ab2", "evaluations": settings.teacher_evaluations} if settings.distill == "steps" else {}
    return {
        "version": VERSION,
        "stage": settings.distill,
        "steps": settings.distill_steps if settings.distill == "steps" else None,
        "schedule": "uniform",
        "solver": "euler",
        "shift": settings.shift,
        "guidance": "none",
        "window": max(entry.shapes["latents"][1] for entry in samples.train),
        "overlap": None,
        "teacher": {
            "passes": rows,
            "interval": settings.teacher_interval,
            "negative_prompt": text,
            **small,
            "base_sha256": base.get("transformer", {}).get("sha256", ""),
            "base_dtype": settings.base_dtype,
            "loras": loras,
        },
    }


def check_students_run(job: TrainJob, samples: Samples, accelerator: Accelerator | None = None) -> None:
    """Raise ``UsageError`` for samples, or processes, that nothing can be distilled with."""
    if not job.train.is_student:
        return
    if samples.pictures:
        raise UsageError(
            "distill: got pictures among the samples, expected clips with sound alone: a teacher of lips has to hear",
            f"encode without --pictures, or leave them out: {samples.without_pictures()}",
        )
    teacher_loras(job.train)
    kinds = (DistributedType.FSDP, DistributedType.DEEPSPEED)
    if accelerator is not None and accelerator.distributed_type in kinds:
        raise UsageError(
            "distill: got weights or states spread over processes, expected whole ones: the LoRA is switched off and on",
            "launch it with several-gpus.yaml: avatarctl presets copy several-gpus",
        )
