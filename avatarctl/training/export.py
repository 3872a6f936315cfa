"""Export a trained transformer or LoRA as the file that `generate` and other tools load, from a live run or a checkpoint."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avatarctl import __version__, durable
from avatarctl.errors import ChangedError, InputFileError, UsageError
from avatarctl.networks import checkpoints as weights
from avatarctl.networks.attach import changes_of, load_trained
from avatarctl.networks.lora_formats import Form, write_lora
from avatarctl.networks.lora_kinds import converted
from avatarctl.networks.transformer import StableAvatarTransformer3DModel
from avatarctl.settings.student import STUDENT
from avatarctl.settings.train import TrainSettings
from avatarctl.settings.values import EXPORTS, export_of, exported_steps
from avatarctl.training import checkpoints
from avatarctl.training.model import CPU, make_model
from avatarctl.training.sharded import SHARES, load_shares
from avatarctl.weights import checksum

TRANSFORMER, LORA, MANIFEST = "transformer.safetensors", "lora.safetensors", "run.json"
STAGES = "stages.json"  # of a curriculum: what it began with, and with which LoRA each stage did
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MOST_WORDS = 100  # of the captions, in the metadata


def result_name(settings: TrainSettings) -> str:
    """Return the name of a run's newest export in its folder."""
    return LORA if settings.is_lora else TRANSFORMER


def export(
    model: StableAvatarTransformer3DModel,
    settings: TrainSettings,
    path: Path,
    about: Mapping[str, str],
    base: Mapping[str, Tensor],
) -> Path:
    """Write what was trained: a whole transformer under released names, or a LoRA in the format that was asked for.

    ``about``: its metadata. ``base``: the weights that a LoRA run trains in full, as they were before. Their differences go
    into the LoRA's file.
    """
    name = settings.export_dtype
    dtype = DTYPES["bfloat16" if settings.is_lora else "float32"] if name == "auto" else DTYPES[name]
    path.parent.mkdir(parents=True, exist_ok=True)
    if not settings.is_lora:
        return weights.save_weights(model, path, dtype=dtype, about=about)
    low_rank, full = changes_of(model, base)
    low_rank = {name: converted(change, dtype) for name, change in low_rank.items()}
    full = {name: tensor.to(dtype) for name, tensor in full.items()}
    return write_lora(path, low_rank, full, settings.lora_format, model, about)


def words_of(captions: Iterable[str]) -> dict[str, int]:
    """Return the most frequent words of captions, with the number of samples that have each."""
    counts = Counter(word for caption in captions for word in set(re.findall(r"[^\W_]+", caption.lower())))
    return dict(counts.most_common(MOST_WORDS))


def metadata(
    step: int, samples: int, words: Mapping[str, int], base: str, preset: str, student: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """Return what an export tells of itself: no path, nothing of this machine. ``base``: SHA-256 of the weights begun with.

    ``student``: of a distilled LoRA, how it is rendered and who its teacher was.
    """
    facts = {
        "avatarctl": __version__,
        "step": str(step),
        "samples": str(samples),
        "caption_words": json.dumps(words, ensure_ascii=False) if words else "",
        "base_sha256": base,
        "preset": preset,
        STUDENT: json.dumps(student, ensure_ascii=False) if student else "",
    }
    return {name: text for name, text in facts.items() if text}


def base_sum(manifest: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the weights that a run began with; "" for random ones."""
    return str(manifest.get("base", {}).get("transformer", {}).get("sha256", ""))


# -- From the folder of a run -------------------------------------------------------------------------------------------


def export_run(run: Path, step: int | None, output: Path, lora: bool, dtype: str, form: Form | None) -> int:
    """Write what a run had trained at a step (None: the newest) from its checkpoint, and return the step.

    Where the checkpoint is gone but its export is there, that one is copied. ``dtype`` auto and ``form`` None: the run's own.
    """
    manifest = durable.unsealed(run / MANIFEST)
    if manifest is None:
        what = "is damaged" if (run / MANIFEST).exists() else f"got no {MANIFEST}, expected the folder of a run"
        stages = sorted(path.parent.name for path in run.glob(f"*/{MANIFEST}")) if (run / STAGES).exists() else []
        hint = "name the --output of `avatarctl train` or `avatarctl lora train`"
        raise InputFileError(f"{run}: {what}", f"name one of its stages: {run / stages[-1]}" if stages else hint)
    settings = TrainSettings.model_validate(manifest["train"])
    if settings.is_lora != lora:
        command = "avatarctl lora export" if settings.is_lora else "avatarctl export"
        kind = "a LoRA" if settings.is_lora else "a transformer"
        raise UsageError(
            f"{run}: got a run that trains {kind}", f"{command} {shlex.quote(str(run))} --output {output.name}"
        )
    checkpoint = checkpoints.newest(run)[0] if step is None else checkpoints.whole(run, step)
    if checkpoint is None:
        return _copy_export(run, step, output, settings, dtype, form)
    changes: dict[str, Any] = {} if dtype == "auto" else {"export_dtype": dtype}
    changes |= {} if form is None else {"lora_format": form}
    model, base = _model_at(run, checkpoint, manifest, settings)
    state = checkpoint.state
    about = metadata(
        checkpoint.step,
        state.get("samples", 0),
        state.get("caption_words", {}),
        base_sum(manifest),
        manifest.get("preset", ""),
        state.get("student"),
    )
    with durable.guarded(output, "free some space and run the same command again", "choose another --output"):
        export(model, settings.model_copy(update=changes), output, about, base)
    return checkpoint.step


def _model_at(
    run: Path, checkpoint: checkpoints.Checkpoint, manifest: Mapping[str, Any], settings: TrainSettings
) -> tuple[StableAvatarTransformer3DModel, dict[str, Tensor]]:
    """Return the model as a checkpoint (its average, where it has one) has it, and the base of what trains in full."""
    dims = checkpoint.state.get("dims")
    if settings.dims is None:
        file = Path(manifest["base"]["transformer"]["path"])
        if not file.exists():
            raise InputFileError(
                f"{file}: got no such file, expected the weights that {run} began with",
                "put them back, or use what the run exported: it needs no other file",
            )
        if checksum(file) != base_sum(manifest):
            raise ChangedError(f"{file}: these are other weights than those that {run} began with", "put them back")
        settings = settings.model_copy(update={"weights": file})
    # What the run began with lies under what it trained; products of float8 are for training alone.
    settings = settings.model_copy(update={"init_lora": None, "teacher_lora": (), "matmul": "same"})
    model, base = make_model(settings, None, CPU, dims)
    shares = checkpoint.path / SHARES
    load_trained(model, load_shares(shares, "trained") if shares.exists() else checkpoint.weights())
    return model.eval(), base


def _copy_export(
    run: Path, step: int | None, output: Path, settings: TrainSettings, dtype: str, form: Form | None
) -> int:
    """Copy an export whose checkpoint is gone; raises ``InputFileError`` where there is none, ``UsageError`` for another form."""
    there = exported_steps(run)
    steps = sorted({*there, *checkpoints.steps(run)})
    if step is None or step not in there:
        raise InputFileError(
            f"{run}: got no whole checkpoint" + (f" of step {step}" if step is not None else ""),
            f"it has those of step {', '.join(map(str, steps))}: {run}@{steps[-1]}"
            if steps
            else "train it first: a checkpoint is written every checkpoint_every steps, and by `touch RUN/save`",
        )
    if dtype != "auto" or (form is not None and form != settings.lora_format):
        raise UsageError(
            f"{run}: the checkpoint of step {step} is gone, its export stays as it was written",
            f"leave out --dtype and --to; other names: avatarctl lora convert {shlex.quote(str(export_of(run, step)))} "
            f"--to {form or settings.lora_format} --output {output.name}",
        )
    again = "free some space and run the same command again"
    with durable.guarded(output, again, "choose another --output"), durable.beside(output) as part:
        shutil.copyfile(export_of(run, step), part)
    return step


def prune(run: Path, kept: int | None) -> None:
    """Remove the oldest exports of a run but the newest ``kept`` (None: all stay)."""
    if kept is not None:
        for step in exported_steps(run)[: max(len(exported_steps(run)) - kept, 0)]:
            (run / EXPORTS / f"step-{step:08d}.safetensors").unlink()
