"""The whole training run, top to bottom, one loop. READ FIRST in this folder."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object

from avatarctl.console import Progress, note
from avatarctl.data.shards import read_about
from avatarctl.errors import Interrupted, QualityError
from avatarctl.render import render
from avatarctl.render.stop import Stop, stopping
from avatarctl.settings.train import TrainJob
from avatarctl.threads import computing_with
from avatarctl.training import checkpointing, checkpoints, validate
from avatarctl.training.draws import Draws, draw, seed_of
from avatarctl.training.folder import begin_run, explained, held, threads_of
from avatarctl.training.held_out import held_out_loss
from avatarctl.training.log import Log
from avatarctl.training.loss import Batch, flow_loss
from avatarctl.training.metrics import StepMetrics
from avatarctl.training.optimizer import clip_limit, learning_rate, set_learning_rates, shorten_outlier
from avatarctl.training.processes import accelerated, alone
from avatarctl.training.state import RunState, build_state

GO, SAVE, STOP = 0, 1, 2
AVERAGE_SHARE = 0.02  # of the newest loss in the running average


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
            checkpoint = checkpointing.newest(job.output, accelerator.is_main_process)
            state = build_state(job, accelerator, checkpoint)
            if checkpoint is not None:
                checkpointing.restore(state, checkpoint)
            steps_before = state.step
            log = (
                stack.enter_context(Log(job.output, state.step, job.train.tracker))
                if accelerator.is_main_process
                else None
            )
            Trainer(state, stop, show, log).train()
    if not accelerator.is_main_process:
        return None
    return Trained(job.output, state.exported, state.step, state.average, time.monotonic() - began, steps_before)


class Trainer:
    """The steps of a run, and what is seen of them."""

    def __init__(self, state: RunState, stop: Stop, show: Progress, log: Log | None) -> None:
        self.state, self.stop, self.show, self.log = state, stop, show, log
        self.saved_at, self.saved_step = time.monotonic(), state.step

    def train(self) -> None:
        """Run the steps that are left: take, draw, loss, backward; agree; step; note; save."""
        state, settings, accelerator = self.state, self.state.settings, self.state.accelerator
        batches = state.samples.stream(self._numbers())
        while state.step < settings.steps:
            began = time.monotonic()
            set_learning_rates(state.optimizer, settings, state.step)
            metrics = StepMetrics(settings.accumulate)
            for micro in range(settings.accumulate):
                batch = next(batches).to(accelerator.device)
                draws = self._draw(batch, micro)
                with accelerator.accumulate(state.model):
                    with self._activations():
                        loss, errors = flow_loss(state.model, batch, draws, settings)
                    metrics.add(batch, draws, errors)
                    if micro + 1 == settings.accumulate:
                        word = self._agree(metrics)
                    accelerator.backward(loss)
                    if accelerator.sync_gradients:
                        norm = self._clip(metrics)
                    state.optimizer.step()
                    state.optimizer.zero_grad()
            state.step += 1
            if state.ema is not None:
                state.ema.step(state.trained)
            self._note(metrics, norm, time.monotonic() - began)
            self._measure()
            if word != GO or state.step % settings.checkpoint_every == 0:
                self.save()
            if word == STOP:
                self._leave()
            if settings.validate_every and state.step % settings.validate_every == 0:
                self._validate()
        self.save()
        state.exported = checkpointing.export_result(state, state.job.output)

    def save(self) -> None:
        """Write a checkpoint of this step, unless there is one."""
        run = self.state.job.output
        if self.saved_step == self.state.step and checkpoints.steps(run)[-1:] == [self.state.step]:
            return
        checkpointing.save(self.state)
        if self.log is not None:
            self.log.draw()
        self.saved_at, self.saved_step = time.monotonic(), self.state.step
        self.state.accelerator.wait_for_everyone()

    # -- Parts of a step -----------------------------------------------------------------------------------------------

    def _activations(self) -> AbstractContextManager[Any]:
        """Return where the blocks' inputs wait for the way back."""
        if not self.state.settings.offload_activations:
            return nullcontext()
        return torch.autograd.graph.save_on_cpu(pin_memory=self.state.accelerator.device.type == "cuda")

    def _numbers(self) -> Iterator[int]:
        """Return the numbers of this process's batches, from the current step on."""
        for step in range(self.state.step, self.state.settings.steps):
            for micro in range(self.state.settings.accumulate):
                yield step * self.state.passes + self._pass(micro)

    def _pass(self, micro: int) -> int:
        """Return this pass's number within the step, over all processes."""
        return micro * self.state.accelerator.num_processes + self.state.accelerator.process_index

    def _draw(self, batch: Batch, micro: int) -> Draws:
        settings = self.state.settings
        first = self._pass(micro) * settings.batch_size
        names = [(settings.seed, self.state.step, first + i) for i in range(len(batch.keys))]
        torch.manual_seed(seed_of("dropout", *names[0]))  # the LoRA's dropout, inside the passes
        count = self.state.samples_per_step
        places = range(first, first + len(names)) if settings.stratify else ()
        # A place's band moves on from step to step, so that every sample meets all of them.
        bands = [((place + self.state.step) % count, count) for place in places]
        return draw(settings, batch.latents.shape, names, bands).to(self.state.accelerator.device)

    def _agree(self, metrics: StepMetrics) -> int:
        """Tell all processes of a loss that isn't finite, and what to do after this step; before anything is stepped."""
        state, accelerator = self.state, self.state.accelerator
        files = {name: state.leads and (state.job.output / name).exists() for name in ("save", "stop")}
        late = state.leads and time.monotonic() - self.saved_at >= state.settings.checkpoint_every_s
        row = [
            metrics.loss,
            float(bool(metrics.broken)),
            float(files["save"] or late),
            float(files["stop"] or self.stop.asked),
        ]
        summed = accelerator.reduce(torch.tensor(row, dtype=torch.float64, device=accelerator.device), "sum")
        loss, broken, save, stop = (float(value) for value in summed)
        if broken:
            keys = gather_object(metrics.broken) if accelerator.num_processes > 1 else metrics.broken
            raise QualityError(
                f"step {state.step + 1}: the loss is not finite with sample {', '.join(keys)}; nothing of this step is kept",
                f"look at it with `avatarctl data check {state.job.data}`, lower learning_rate, or use dtype float32",
            )
        metrics.loss = loss / accelerator.num_processes
        return STOP if stop else SAVE if save else GO

    def _clip(self, metrics: StepMetrics) -> float:
        state = self.state
        limit = clip_limit(state.settings, state.step)
        norm = state.accelerator.clip_grad_norm_(state.model.parameters(), limit)
        norm = float(state.model.get_global_grad_norm() if norm is None else norm)  # DeepSpeed clips by itself
        shorten_outlier(state.model.parameters(), state.settings, state.step, norm)
        if not math.isfinite(norm):
            raise QualityError(
                f"step {state.step + 1}: the gradient is not finite with sample {', '.join(metrics.keys)}; "
                "nothing of this step is kept",
                "lower learning_rate, or use dtype float32",
            )
        return norm

    # -- What is seen of it --------------------------------------------------------------------------------------------

    def _note(self, metrics: StepMetrics, norm: float, step_s: float) -> None:
        state, settings = self.state, self.state.settings
        first = math.isnan(state.average)
        state.average = metrics.loss if first else (1 - AVERAGE_SHARE) * state.average + AVERAGE_SHARE * metrics.loss
        if self.log is not None:
            rate = learning_rate(settings, state.step - 1)
            values = {"loss": metrics.loss, **metrics.by_branch(), "grad_norm": norm, "learning_rate": rate}
            self.log.add(state.step, {**values, "step_s": round(step_s, 4), **self._memory()})
        if state.step % settings.log_every == 0 or state.step == settings.steps:
            left_s = step_s * (settings.steps - state.step)
            self.show(state.step, settings.steps, loss=state.average, step_s=step_s, left_s=left_s)

    def _memory(self) -> dict[str, float]:
        if self.state.accelerator.device.type != "cuda":
            return {}
        return {"peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 3)}

    def _measure(self) -> None:
        """Measure the held-out samples when it is time for it."""
        state, settings = self.state, self.state.settings
        if not state.samples.held_out or (state.step % settings.holdout_every and state.step != settings.steps):
            return
        loss = held_out_loss(state)
        if self.log is not None:
            self.log.add(state.step, {"held_out_loss": loss})

    def _validate(self) -> None:
        """Make the validation videos; a checkpoint before, so that a stop in the middle loses nothing."""
        state = self.state
        if self.saved_step != state.step:
            self.save()
        exported = checkpointing.export_result(state, state.job.output / validate.FOLDER)
        if state.leads and exported is not None:
            state.bare.eval()
            for render_job in validate.jobs(state.settings, state.job.output, state.step, exported):
                note(f"validation video: {render_job.output}")
                with alone():
                    render(render_job, force=True)
            state.bare.train()
        state.accelerator.wait_for_everyone()

    def _leave(self) -> None:
        state = self.state
        if state.leads:
            (state.job.output / "stop").unlink(missing_ok=True)
        state.accelerator.wait_for_everyone()
        hint = "resume with the same command"
        raise Interrupted(f"stopped; step {state.step} of {state.settings.steps} is saved", hint, self.stop.signal or 2)
