"""Write a run's checkpoints and its result, and restore what a checkpoint holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avatarctl.console import note
from avatarctl.errors import ChangedError
from avatarctl.networks.attach import trained_state
from avatarctl.training import checkpoints
from avatarctl.training.export import export
from avatarctl.training.folder import guarded
from avatarctl.training.model import check_world, make_model
from avatarctl.training.optimizer_state import optimizer_tensors, restore_optimizer
from avatarctl.training.state import RunState


def newest(run: Path, leads: bool) -> checkpoints.Checkpoint | None:
    """Return the newest whole checkpoint of a run; those that aren't whole are told."""
    checkpoint, passed_over = checkpoints.newest(run)
    if passed_over and leads:
        note(f"checkpoints that are not whole were passed over: {', '.join(passed_over)}")
    return checkpoint


def save(state: RunState) -> None:
    """Write a checkpoint of this step; every process takes part."""
    run, accelerator = state.job.output, state.accelerator
    with guarded(run):
        folder = checkpoints.begin(run, state.step) if state.leads else None
        if state.sharded:
            accelerator.wait_for_everyone()
            accelerator.save_state(str(checkpoints.part_of(run, state.step) / "sharded"))
            accelerator.wait_for_everyone()
        if folder is None:
            return
        facts: dict[str, Any] = {
            "step": state.step,
            "average": state.average,
            "samples_per_step": state.samples_per_step,
            "data": state.samples.fingerprint(),
        }
        if not state.sharded:
            tensors, facts["optimizer"] = optimizer_tensors(state.optimizer.optimizer, state.by_parameter)
            checkpoints.write(
                folder, {"trained": trained_state(state.bare), "optimizer": tensors, **_ema_tensors(state)}
            )
        checkpoints.finish(run, folder, facts, state.settings.keep_checkpoints)
        (run / "save").unlink(missing_ok=True)


def restore(state: RunState, checkpoint: checkpoints.Checkpoint) -> None:
    """Restore optimizer, average of the weights and place; raises ``ChangedError`` for other samples or batches."""
    facts = checkpoint.state
    check_world(facts["samples_per_step"], state.samples_per_step)
    if facts["data"] != state.samples.fingerprint():
        raise ChangedError(
            f"{state.job.data}: its samples are not those that the run in {state.job.output} began with",
            "train into another --output from the weights so far, or start over with --force",
        )
    if state.sharded:
        state.accelerator.load_state(str(checkpoint.path / "sharded"))
    else:
        restore_optimizer(
            state.optimizer.optimizer, state.by_parameter, checkpoint.tensors("optimizer"), facts["optimizer"]
        )
    if state.ema is not None:
        tensors = checkpoint.tensors("ema")
        state.ema.optimization_step = int(tensors.pop("optimization_step"))
        for name, shadow in zip(state.names, state.ema.shadow_params, strict=True):
            shadow.copy_(tensors[name])
    state.step, state.average = checkpoint.step, float(facts["average"])


def export_result(state: RunState, folder: Path) -> Path | None:
    """Write the file that `generate` loads, of the average of the weights if there is one; None beside the first process."""
    gathered = state.accelerator.get_state_dict(state.model) if state.sharded else None
    if not state.leads:
        return None
    model = state.bare
    if gathered is not None:
        model, _ = make_model(state.settings, state.samples.shapes())
        model.load_state_dict(gathered)
    if state.ema is not None:
        state.ema.store(state.trained)
        state.ema.copy_to(state.trained)
    try:
        with guarded(folder):
            return export(model, state.settings, folder, state.step, state.base)
    finally:
        if state.ema is not None:
            state.ema.restore(state.trained)


def _ema_tensors(state: RunState) -> dict[str, dict[str, Tensor]]:
    if state.ema is None:
        return {}
    shadow = dict(zip(state.names, state.ema.shadow_params, strict=True))
    return {"ema": {**shadow, "optimization_step": torch.tensor(state.ema.optimization_step)}}
