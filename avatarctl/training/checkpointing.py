"""Write a run's checkpoints and its result, and restore what a checkpoint holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avatarctl import durable
from avatarctl.networks.attach import load_trained, trained_state
from avatarctl.settings.values import export_of
from avatarctl.training import checkpoints
from avatarctl.training.changes import settings_of
from avatarctl.training.distill_about import student_facts
from avatarctl.training.export import MANIFEST, base_sum, export, metadata, prune, result_name, words_of
from avatarctl.training.folder import guarded, listening
from avatarctl.training.held_out import as_exported
from avatarctl.training.model import make_model
from avatarctl.training.optimizer_state import optimizer_tensors, restore_optimizer
from avatarctl.training.processes import wait_for_all
from avatarctl.training.sharded import (
    SHARES,
    as_shared,
    gathered,
    load_shares,
    restore_zero,
    save_shares,
    zero_states,
)
from avatarctl.training.state import RunState


def save(state: RunState) -> None:
    """Write a checkpoint of this step; every process takes part."""
    run, accelerator = state.job.output, state.accelerator
    with guarded(run):
        folder = checkpoints.begin(run, state.step) if state.leads else None
        tensors, plain = _optimizer_state(state)
        if state.sharded:
            wait_for_all(accelerator)
            trained = dict(zip(state.names, state.trained, strict=True))
            save_shares(checkpoints.part_of(run, state.step) / SHARES, trained, tensors)
            wait_for_all(accelerator)
        if folder is None:
            return
        facts: dict[str, Any] = {
            "step": state.step,
            "average": state.average,
            "train": settings_of(state.settings),
            "processes": accelerator.num_processes,
            "bad_steps": state.bad_steps,
            "batch": state.batch_number(0),
            "per_epoch": state.samples.per_epoch,
            "samples": len(state.samples.train),
            "data": state.samples.fingerprint(),
            "caption_words": _words(state),
            "dims": state.bare.dims.to_json(),
            **({"student": _student(state)} if state.settings.is_student else {}),
        }
        facts["optimizer"] = plain
        if not state.sharded:
            checkpoints.write(
                folder, {"trained": trained_state(state.bare), "optimizer": tensors, **_ema_tensors(state)}
            )
        checkpoints.finish(run, folder, facts, state.settings.keep_checkpoints)
        for place in listening(run):
            (place / "save").unlink(missing_ok=True)


def _optimizer_state(state: RunState) -> tuple[dict[str, Tensor], str]:
    """Return the optimizer's state as tensors and JSON: with FSDP2 as it is spread, else whole; all processes take part."""
    if not state.zero:
        return optimizer_tensors(state.optimizer.optimizer, state.by_parameter, whole=not state.sharded)
    states, plain = zero_states(state.optimizer.optimizer, state.trained)
    tensors = {f"{key}:{state.names[place]}": value for place, own in states.items() for key, value in own.items()}
    return tensors, json.dumps({f"{key}:{name}": value for key, value in plain.items() for name in state.names})


def _restore_optimizer(state: RunState, checkpoint: checkpoints.Checkpoint) -> None:
    """Put the optimizer's state back, whatever kind of processes wrote it."""
    plain, shares = checkpoint.state["optimizer"], checkpoint.path / SHARES
    trains = dict(zip(state.names, state.trained, strict=True))
    if shares.exists():
        tensors = load_shares(shares, "optimizer", trains if state.sharded else None)
    else:
        tensors = checkpoint.tensors("optimizer")
        if state.sharded:
            tensors = {key: as_shared(tensor, trains[key.partition(":")[2]]) for key, tensor in tensors.items()}
    if not state.zero:
        restore_optimizer(state.optimizer.optimizer, state.by_parameter, tensors, plain)
        return
    states: dict[int, dict[str, Any]] = {}
    places = {name: place for place, name in enumerate(state.names)}
    for key, value in [*tensors.items(), *json.loads(plain).items()]:
        kind, _, name = key.partition(":")
        if name not in places:  # of the groups
            continue
        states.setdefault(places[name], {})[kind] = value
    restore_zero(state.optimizer.optimizer, state.trained, states)


def restore(state: RunState, checkpoint: checkpoints.Checkpoint) -> None:
    """Restore optimizer, average of the weights and place in the samples' order, as far as settings are what they were."""
    facts = checkpoint.state
    same_optimizer = facts.get("train", {}).get("optimizer", state.settings.optimizer) == state.settings.optimizer
    if same_optimizer:
        _restore_optimizer(state, checkpoint)
    if state.ema is not None and (checkpoint.path / "ema.safetensors").exists():
        tensors = checkpoint.tensors("ema")
        state.ema.optimization_step = int(tensors.pop("optimization_step"))
        for name, shadow in zip(state.names, state.ema.shadow_params, strict=True):
            shadow.copy_(tensors[name])
    state.step, state.average = checkpoint.step, float(facts["average"])
    state.bad_steps = int(facts.get("bad_steps", 0))
    state.first_step, state.first_batch = checkpoint.step, _next_batch(state, facts)


def _next_batch(state: RunState, facts: Mapping[str, Any]) -> int:
    """Return the number of the batch to resume with: where the order of samples is another one, the next epoch's first."""
    samples, settings = state.samples, state.settings
    begun = {"batch_size": settings.batch_size, "rollout_states": settings.rollout_states, **facts.get("train", {})}
    if "batch" not in facts:  # of an older version
        return int(facts["step"]) * int(facts["samples_per_step"]) // settings.batch_size
    number, per_epoch = int(facts["batch"]), int(facts["per_epoch"])
    same = facts["data"] == samples.fingerprint() and (begun["batch_size"], begun["rollout_states"]) == (
        settings.batch_size,
        settings.rollout_states,
    )
    return number if same and per_epoch == samples.per_epoch else -(-number // per_epoch) * samples.per_epoch


def export_step(state: RunState) -> None:
    """Export what is trained up to this step, beside the others and as the run's newest; every process takes part."""
    run, kept = state.job.output, state.settings.exports
    if kept == 0:
        return
    path = export_result(state, export_of(run, state.step))
    if path is not None:
        with guarded(run):
            durable.same_file(path, run / result_name(state.settings))
            prune(run, kept)


def export_result(state: RunState, path: Path) -> Path | None:
    """Write the file that `generate` loads, of the average of the weights if there is one; None beside the first process."""
    trained = gathered(dict(zip(state.names, state.trained, strict=True)), state.leads) if state.sharded else None
    if not state.leads:
        return None
    model, base = state.bare, state.base
    if trained is not None:
        model, base = make_model(state.settings, state.samples.shapes())
        load_trained(model, trained)
    manifest = durable.unsealed(state.job.output / MANIFEST) or {}
    student = _student(state) if state.settings.is_student else None
    preset = manifest.get("preset", "")
    about = metadata(state.step, len(state.samples.train), _words(state), base_sum(manifest), preset, student)
    with as_exported(state) if state.ema is not None else nullcontext(), guarded(state.job.output):
        return export(model, state.settings, path, about, base)


def _student(state: RunState) -> dict[str, Any]:
    manifest = durable.unsealed(state.job.output / MANIFEST) or {}
    return student_facts(state.job, state.samples, manifest["base"])


def _words(state: RunState) -> dict[str, int]:
    return words_of(entry.meta.get("prompt", "") for entry in state.samples.train)


def _ema_tensors(state: RunState) -> dict[str, dict[str, Tensor]]:
    if state.ema is None:
        return {}
    shadow = dict(zip(state.names, state.ema.shadow_params, strict=True))
    return {"ema": {**shadow, "optimization_step": torch.tensor(state.ema.optimization_step)}}
