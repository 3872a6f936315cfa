"""The whole training run, top to bottom, one loop. READ FIRST in this folder."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, InitProcessGroupKwargs, gather_object
from diffusers.training_utils import EMAModel
from torch import Tensor

from avatarctl.console import Progress, note
from avatarctl.data.shards import read_about, read_null_text
from avatarctl.errors import ChangedError, DeviceError, Interrupted, QualityError, UsageError
from avatarctl.networks.adapters import load_trained, trained_state
from avatarctl.render import render
from avatarctl.render.stop import Stop, stopping
from avatarctl.settings.train import TrainJob, TrainSettings
from avatarctl.threads import computing_with
from avatarctl.training import checkpoints, validate
from avatarctl.training.draws import BRANCHES, Draws, draw, seed_of
from avatarctl.training.export import export
from avatarctl.training.folder import begin_run, explained, guarded, held, threads_of
from avatarctl.training.log import Log
from avatarctl.training.loss import Batch, flow_loss
from avatarctl.training.model import check_world, full_weights, make_model, place_model
from avatarctl.training.optimizer import learning_rate, make_optimizer, optimizer_tensors, restore_optimizer
from avatarctl.training.samples import Samples

GO, SAVE, STOP = 0, 1, 2
SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)


@dataclass(frozen=True)
class Trained:
    """What a run made: the exported file, steps in all, the running average of the loss, and the time it took."""

    run: Path
    weights: Path | None
    steps: int
    loss: float
    wall_s: float
    steps_before: int = 0
    """Of earlier runs in this folder."""


def run(job: TrainJob, show: Progress, force: bool) -> Trained | None:
    """Train inside a run folder, from its newest checkpoint on, to the last step."""
    began = time.monotonic()
    read_about(job.data)
    validate.check(job.train)
    with stopping() as stop, ExitStack() as stack:
        accelerator = stack.enter_context(accelerated(job.train))
        if accelerator.is_main_process:
            stack.enter_context(held(job.output))
            begin_run(job, force)
        accelerator.wait_for_everyone()
        stack.enter_context(computing_with(threads_of(job.output)))
        with explained(job):
            trainer = Trainer(job, accelerator, stop, show)
            steps_before = trainer.step
            log = stack.enter_context(Log(job.output, trainer.step)) if accelerator.is_main_process else None
            trainer.train(log)
    if not accelerator.is_main_process:
        return None
    return Trained(job.output, trainer.exported, trainer.step, trainer.average, time.monotonic() - began, steps_before)


@contextmanager
def accelerated(settings: TrainSettings) -> Iterator[Accelerator]:
    """Return the accelerator that the launcher's environment and the settings ask for."""
    cpu = settings.device == "cpu" or not torch.cuda.is_available()
    if cpu and settings.device.startswith("cuda"):
        raise DeviceError(f"device: got {settings.device}, but no GPU is usable", "avatarctl doctor says why")
    if settings.device.startswith("cuda:") and "LOCAL_RANK" not in os.environ:
        torch.cuda.set_device(settings.device)
    narrow = settings.dtype == "bfloat16" or (settings.dtype == "auto" and not cpu)
    accelerator = Accelerator(
        cpu=cpu,
        mixed_precision="bf16" if narrow else "no",
        gradient_accumulation_steps=settings.accumulate,
        # The others wait while the first makes validation videos.
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=12))],
    )
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        config = accelerator.state.deepspeed_plugin.deepspeed_config
        config["train_micro_batch_size_per_gpu"] = settings.batch_size
    try:
        yield accelerator
        accelerator.end_training()
    finally:
        if accelerator.num_processes == 1:
            AcceleratorState._reset_state(reset_partial_state=True)  # the next run may want another precision


@contextmanager
def alone() -> Iterator[None]:
    """Hide the launcher, so that the first process renders a validation video by itself while the others wait."""
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    hidden = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


class Trainer:
    """Everything that a run carries from step to step; what must survive a kill is what ``save`` writes."""

    def __init__(self, job: TrainJob, accelerator: Accelerator, stop: Stop, show: Progress) -> None:
        settings = job.train
        self.job, self.settings, self.accelerator, self.stop, self.show = job, settings, accelerator, stop, show
        self.leads, self.sharded = accelerator.is_main_process, accelerator.distributed_type in SHARDED
        self.samples = Samples(job.data, settings, read_null_text(job.data)[settings.null_text].float())
        self.place = accelerator.process_index
        self.passes = settings.accumulate * accelerator.num_processes  # per optimizer step
        if self.sharded and (settings.ema or settings.base_dtype == "float8"):
            raise UsageError(
                "sharded training: got ema or base_dtype float8, which need whole weights in every process",
                "set ema=0 and base_dtype=same, or launch it without FSDP and DeepSpeed",
            )

        model = make_model(settings, self.samples.shapes())
        dtype = torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32
        self.bare = place_model(model, settings, dtype, self.sharded)
        if settings.compile:
            self.bare.compile_repeated_blocks()
        self.names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        # What a LoRA run trains in full is exported as its difference.
        self.base = full_weights(model) if settings.is_lora else {}
        checkpoint = self._newest()
        if checkpoint is not None and not self.sharded:
            load_trained(self.bare, checkpoint.tensors("trained"))
        optimizer = make_optimizer(self.trained, settings)
        self.model, self.optimizer = accelerator.prepare(self.bare, optimizer)
        self.ema = EMAModel(self.trained, decay=settings.ema) if settings.ema else None
        self.step, self.average = 0, math.nan
        self.exported: Path | None = None
        if checkpoint is not None:
            self._restore(checkpoint)
        self.saved_at, self.saved_step = time.monotonic(), self.step

    # -- The loop ------------------------------------------------------------------------------------------------------

    def train(self, log: Log | None) -> None:
        """Run the steps that are left: take, draw, loss, backward; agree; step; note; save."""
        settings, accelerator = self.settings, self.accelerator
        batches = self.samples.stream(self._numbers())
        while self.step < settings.steps:
            began = time.monotonic()
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(settings, self.step)
            metrics = StepMetrics(settings.accumulate)
            for micro in range(settings.accumulate):
                batch = next(batches).to(accelerator.device)
                draws = self._draw(batch, micro)
                with accelerator.accumulate(self.model):
                    with self._activations():
                        loss, errors = flow_loss(self.model, batch, draws, settings)
                    metrics.add(batch, draws, errors)
                    if micro + 1 == settings.accumulate:
                        word = self._agree(metrics)
                    accelerator.backward(loss)
                    if accelerator.sync_gradients:
                        norm = self._clip(metrics)
                    self.optimizer.step()
                    self.optimizer.zero_grad()
            self.step += 1
            if self.ema is not None:
                self.ema.step(self.trained)
            self._note(log, metrics, norm, time.monotonic() - began)
            self._measure(log)
            if word != GO or self._due():
                self.save(log)
            if word == STOP:
                self._leave()
            if settings.validate_every and self.step % settings.validate_every == 0:
                self._validate(log)
        self.save(log)
        self.exported = self._export(self.job.output)

    def _activations(self) -> AbstractContextManager[Any]:
        """Return where the blocks' inputs wait for the way back."""
        if not self.settings.offload_activations:
            return nullcontext()
        return torch.autograd.graph.save_on_cpu(pin_memory=self.accelerator.device.type == "cuda")

    def _numbers(self) -> Iterator[int]:
        """Return the numbers of this process's batches, from the current step on."""
        for step in range(self.step, self.settings.steps):
            for micro in range(self.settings.accumulate):
                yield step * self.passes + self._pass(micro)

    def _pass(self, micro: int) -> int:
        """Return this pass's number within the step, over all processes."""
        return micro * self.accelerator.num_processes + self.place

    def _draw(self, batch: Batch, micro: int) -> Draws:
        first = self._pass(micro) * self.settings.batch_size
        names = [(self.settings.seed, self.step, first + i) for i in range(len(batch.keys))]
        torch.manual_seed(seed_of("dropout", *names[0]))  # the LoRA's dropout, inside the passes
        return draw(self.settings, batch.latents.shape, names).to(self.accelerator.device)

    def _agree(self, metrics: StepMetrics) -> int:
        """Tell all processes of a loss that isn't finite, and what to do after this step; before anything is stepped."""
        files = {name: self.leads and (self.job.output / name).exists() for name in ("save", "stop")}
        late = self.leads and time.monotonic() - self.saved_at >= self.settings.checkpoint_every_s
        row = [
            metrics.loss,
            float(bool(metrics.broken)),
            float(files["save"] or late),
            float(files["stop"] or self.stop.asked),
        ]
        summed = self.accelerator.reduce(torch.tensor(row, dtype=torch.float64, device=self.accelerator.device), "sum")
        loss, broken, save, stop = (float(value) for value in summed)
        if broken:
            keys = gather_object(metrics.broken) if self.accelerator.num_processes > 1 else metrics.broken
            raise QualityError(
                f"step {self.step + 1}: the loss is not finite with sample {', '.join(keys)}; nothing of this step is kept",
                f"look at it with `avatarctl data check {self.job.data}`, lower learning_rate, or use dtype float32",
            )
        metrics.loss = loss / self.accelerator.num_processes
        return STOP if stop else SAVE if save else GO

    def _clip(self, metrics: StepMetrics) -> float:
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm)
        norm = float(self.model.get_global_grad_norm() if norm is None else norm)  # DeepSpeed clips by itself
        if not math.isfinite(norm):
            raise QualityError(
                f"step {self.step + 1}: the gradient is not finite with sample {', '.join(metrics.keys)}; "
                "nothing of this step is kept",
                "lower learning_rate, or use dtype float32",
            )
        return norm

    # -- What is seen of it --------------------------------------------------------------------------------------------

    def _note(self, log: Log | None, metrics: StepMetrics, norm: float, step_s: float) -> None:
        self.average = metrics.loss if math.isnan(self.average) else 0.98 * self.average + 0.02 * metrics.loss
        if log is not None:
            rate = learning_rate(self.settings, self.step - 1)
            values = {"loss": metrics.loss, **metrics.by_branch(), "grad_norm": norm, "learning_rate": rate}
            log.add(self.step, {**values, "step_s": round(step_s, 4), **self._memory()})
        if self.step % self.settings.log_every == 0 or self.step == self.settings.steps:
            left_s = step_s * (self.settings.steps - self.step)
            self.show(self.step, self.settings.steps, loss=self.average, step_s=step_s, left_s=left_s)

    def _memory(self) -> dict[str, float]:
        if self.accelerator.device.type != "cuda":
            return {}
        return {"peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 3)}

    def _measure(self, log: Log | None) -> None:
        """Measure the loss of held-out samples under draws that never change, weighted as a whole, every condition given."""
        held_out = self.samples.held_out
        if not held_out or (self.step % self.settings.holdout_every and self.step != self.settings.steps):
            return
        plain = self.settings.model_copy(
            update={"whole_probability": 1.0, "face_probability": 0.0, "motion_weight": 0.0}
            | dict.fromkeys(("drop_audio", "drop_tokens", "drop_text", "clip_audio"), 0.0)
        )
        total = torch.zeros(2, dtype=torch.float64, device=self.accelerator.device)
        self.model.eval()
        with torch.no_grad():
            for entry in held_out[self.place :: self.accelerator.num_processes]:
                batch = self.samples.load([entry]).to(self.accelerator.device)
                draws = draw(plain, batch.latents.shape, [("held-out", entry.key)]).to(self.accelerator.device)
                with self.accelerator.autocast():
                    _, errors = flow_loss(self.bare, batch, draws, plain)
                total += torch.tensor([float(errors.sum()), len(errors)], dtype=torch.float64, device=total.device)
        self.model.train()
        total = self.accelerator.reduce(total, "sum")
        if log is not None:
            log.add(self.step, {"held_out_loss": float(total[0] / total[1])})

    def _validate(self, log: Log | None) -> None:
        """Make the validation videos; a checkpoint before, so that a stop in the middle loses nothing."""
        if self.saved_step != self.step:
            self.save(log)
        exported = self._export(self.job.output / validate.FOLDER)
        if self.leads and exported is not None:
            self.bare.eval()
            for render_job in validate.jobs(self.settings, self.job.output, self.step, exported):
                note(f"validation video: {render_job.output}")
                with alone():
                    render(render_job, force=True)
            self.bare.train()
        self.accelerator.wait_for_everyone()

    # -- What survives -------------------------------------------------------------------------------------------------

    def _due(self) -> bool:
        return self.step % self.settings.checkpoint_every == 0

    def save(self, log: Log | None) -> None:
        """Write a checkpoint of this step, unless there is one."""
        if self.saved_step == self.step and checkpoints.steps(self.job.output)[-1:] == [self.step]:
            return
        with guarded(self.job.output):
            folder = checkpoints.begin(self.job.output, self.step) if self.leads else None
            if self.sharded:
                self.accelerator.wait_for_everyone()
                self.accelerator.save_state(str(checkpoints.part_of(self.job.output, self.step) / "sharded"))
                self.accelerator.wait_for_everyone()
            if folder is not None:
                state: dict[str, Any] = {
                    "step": self.step,
                    "average": self.average,
                    "samples_per_step": self._samples_per_step(),
                }
                state["data"] = self.samples.fingerprint()
                if not self.sharded:
                    tensors, state["optimizer"] = optimizer_tensors(self.optimizer.optimizer, self.names)
                    checkpoints.write(
                        folder, {"trained": trained_state(self.bare), "optimizer": tensors, **self._ema()}
                    )
                checkpoints.finish(self.job.output, folder, state, self.settings.keep_checkpoints)
                (self.job.output / "save").unlink(missing_ok=True)
        if log is not None:
            log.draw()
        self.saved_at, self.saved_step = time.monotonic(), self.step
        self.accelerator.wait_for_everyone()

    def _ema(self) -> dict[str, dict[str, Tensor]]:
        if self.ema is None:
            return {}
        shadow = dict(zip(self.names, self.ema.shadow_params, strict=True))
        return {"ema": {**shadow, "optimization_step": torch.tensor(self.ema.optimization_step)}}

    def _samples_per_step(self) -> int:
        return self.passes * self.settings.batch_size

    def _newest(self) -> checkpoints.Checkpoint | None:
        checkpoint, passed_over = checkpoints.newest(self.job.output)
        if passed_over and self.leads:
            note(f"checkpoints that are not whole were passed over: {', '.join(passed_over)}")
        return checkpoint

    def _restore(self, checkpoint: checkpoints.Checkpoint) -> None:
        state = checkpoint.state
        check_world(state["samples_per_step"], self._samples_per_step())
        if state["data"] != self.samples.fingerprint():
            raise ChangedError(
                f"{self.job.data}: its samples are not those that the run in {self.job.output} began with",
                "train into another --output from the weights so far, or start over with --force",
            )
        if self.sharded:
            self.accelerator.load_state(str(checkpoint.path / "sharded"))
        else:
            restore_optimizer(self.optimizer.optimizer, self.names, checkpoint.tensors("optimizer"), state["optimizer"])
        if self.ema is not None:
            tensors = checkpoint.tensors("ema")
            self.ema.optimization_step = int(tensors.pop("optimization_step"))
            for name, shadow in zip(self.names, self.ema.shadow_params, strict=True):
                shadow.copy_(tensors[name])
        self.step, self.average = checkpoint.step, float(state["average"])

    def _leave(self) -> None:
        if self.leads:
            (self.job.output / "stop").unlink(missing_ok=True)
        self.accelerator.wait_for_everyone()
        hint = "resume with the same command"
        raise Interrupted(f"stopped; step {self.step} of {self.settings.steps} is saved", hint, self.stop.signal or 2)

    def _export(self, folder: Path) -> Path | None:
        """Write the file that `generate` takes, of the average of the weights if there is one."""
        gathered = self.accelerator.get_state_dict(self.model) if self.sharded else None
        if not self.leads:
            return None
        model = self.bare
        if gathered is not None:
            model = make_model(self.settings, self.samples.shapes())
            model.load_state_dict(gathered)
        if self.ema is not None:
            self.ema.store(self.trained)
            self.ema.copy_to(self.trained)
        try:
            with guarded(folder):
                return export(model, self.settings, folder, self.step, self.base)
        finally:
            if self.ema is not None:
                self.ema.restore(self.trained)


class StepMetrics:
    """What the passes of one step metrics: mean loss, the samples, those whose loss isn't finite, and losses by mask."""

    def __init__(self, passes: int) -> None:
        self.loss, self._passes = 0.0, passes
        self.keys: list[str] = []
        self.broken: list[str] = []
        self._branches: dict[str, list[float]] = {}

    def add(self, batch: Batch, draws: Draws, errors: Tensor) -> None:
        """Note a pass."""
        values = errors.tolist()
        self.loss += sum(values) / len(values) / self._passes
        self.keys += batch.keys
        for key, branch, value in zip(batch.keys, draws.branch.tolist(), values, strict=True):
            self._branches.setdefault(BRANCHES[branch], []).append(value)
            if not math.isfinite(value):
                self.broken.append(key)

    def by_branch(self) -> dict[str, float]:
        """Return the mean loss by mask, of this process's samples."""
        return {f"loss_{name}": sum(values) / len(values) for name, values in sorted(self._branches.items())}
