"""The whole training run, top to bottom, one loop. READ FIRST in this folder."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor

from avatarctl.console import note
from avatarctl.data.shards import read_about
from avatarctl.errors import Interrupted, QualityError
from avatarctl.progress import Progress
from avatarctl.settings.train import TrainJob
from avatarctl.settings.values import export_of
from avatarctl.threads import computing_with
from avatarctl.training import checkpointing, checkpoints, validation
from avatarctl.training.agreement import agree_on_work, agreed_checkpoint
from avatarctl.training.conditions import Video, prepare_conditions, videos_of
from avatarctl.training.distill import Distiller
from avatarctl.training.distill_about import check_students_run
from avatarctl.training.draws import Draws, draw, seed_of
from avatarctl.training.export import result_name
from avatarctl.training.folder import WORDS, held, is_stage, listening, note_run, prepare_run, said, threads_of
from avatarctl.training.held_out import held_out_imitation, held_out_loss
from avatarctl.training.log import Log
from avatarctl.training.loss import Batch, flow_loss
from avatarctl.training.metrics import StepMetrics
from avatarctl.training.optimizer import clip_limit, learning_rate, set_learning_rates, shorten_outlier
from avatarctl.training.plan import explained, text_len_of
from avatarctl.training.processes import accelerated, is_narrow, wait_for_all
from avatarctl.training.samples import Samples
from avatarctl.training.state import RunState, build_state, find_samples
from avatarctl.training.stopping import Stopping, stopped_by, stopping

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
    with stopping() as stop, accelerated(job.train) as accelerator:
        return run_with(accelerator, stop, job, show, force)


def run_with(accelerator: Any, stop: Stopping, job: TrainJob, show: Progress, force: bool) -> Trained | None:
    """Train with processes that are there already."""
    began = time.monotonic()
    for cache in (job.data, *job.more_data):
        read_about(cache)
    videos = videos_of(job.train)
    with ExitStack() as stack:
        if accelerator.is_main_process:
            stack.enter_context(held(job.output))
            prepare_run(job, force)
        wait_for_all(accelerator)
        checkpoint = agreed_checkpoint(job, accelerator)
        samples = find_samples(job)
        check_students_run(job, samples, accelerator)
        agree_on_work(job, accelerator, samples.fingerprint())
        if accelerator.is_main_process:
            data = {"fingerprint": samples.fingerprint(), "samples": len(samples.train)}
            if changes := note_run(job, checkpoint, accelerator.num_processes, data):
                note(changes)
        wait_for_all(accelerator)
        stack.enter_context(computing_with(threads_of(job.output)))
        if accelerator.is_main_process:
            tell_of_samples(samples)
        with explained(job, samples, checkpoint is not None):
            if videos and accelerator.is_main_process:
                prepare_conditions(videos, job.output, text_len_of(job, samples), accelerator.device)
            wait_for_all(accelerator)
            state = build_state(job, accelerator, samples, checkpoint)
            if checkpoint is not None:
                checkpointing.restore(state, checkpoint)
            steps_before = state.step
            log = (
                stack.enter_context(Log(job.output, state.step, job.train.tracker))
                if accelerator.is_main_process
                else None
            )
            with stopped_by(stop):
                Trainer(state, stop, show, log, videos).train()
    if not accelerator.is_main_process:
        return None
    return Trained(job.output, state.exported, state.step, state.average, time.monotonic() - began, steps_before)


def tell_of_samples(samples: Samples) -> None:
    """Say which samples are neither trained on nor measured."""
    if samples.left_out:
        note(f"holdout: {len(samples.left_out)} windows share pictures with held-out ones, and are left out")
    if lost := sorted({entry.key for entry in samples.held_out} - {entry.key for entry in samples.whole_held_out}):
        note(f"holdout: damaged samples are not measured: {', '.join(lost)}")


class Trainer:
    """The steps of a run, and what is seen of them."""

    def __init__(self, state: RunState, stop: Stopping, show: Progress, log: Log | None, videos: list[Video]) -> None:
        self.state, self.stop, self.show, self.log, self.videos = state, stop, show, log, videos
        self.saved_at, self.saved_step = time.monotonic(), state.step
        self.told: set[str] = set()
        self.distiller = Distiller(state) if state.settings.is_student else None
        self.changed: Any = None

    def train(self) -> None:
        """Run the steps that are left: take, draw, loss, backward; agree; then change the state: step, note, save."""
        state, settings, accelerator = self.state, self.state.settings, self.state.accelerator
        self._begin()
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
                        loss = self._loss(batch, draws, micro, metrics)
                    if micro + 1 == settings.accumulate:
                        word, broken = self._agree(metrics)
                        if state.zero:  # which clips in the last backward
                            state.optimizer.optimizer.clip_grad = clip_limit(settings, state.step)
                    accelerator.backward(loss)
            norm = self._clip()
            good = not broken and math.isfinite(norm)
            with self.stop.changing():
                if good:
                    state.optimizer.step()
                state.optimizer.zero_grad()
                state.step += 1
                state.bad_steps = 0 if good else state.bad_steps + 1
                if good and state.ema is not None:
                    state.ema.step(state.trained)
                if good:
                    self._note(metrics, norm, time.monotonic() - began)
                else:
                    self._note_skipped(metrics, bool(broken))
                self._measure()
                if word != GO or state.step % settings.checkpoint_every == 0:
                    self.save()
                if word == STOP:
                    self._leave()
                self._validate()
                self._mark_changed()
        with self.stop.changing():
            self.stop.save_now = None
            self.save()
            state.exported = state.job.output / result_name(settings)
            if settings.exports == 0:
                checkpointing.export_result(state, state.exported)

    def _begin(self) -> None:
        """Do what comes before the first step: what a kill left undone, and the measures of step 0."""
        state = self.state
        with self.stop.changing():
            self._export_missing()
            if self.distiller is not None:
                self.distiller.check()
            if state.step == 0:
                self._measure()
            self._validate()
            self._mark_changed()
            self.stop.hint = self._hint()
            if not state.spread:
                self.stop.save_now = self._save_now

    def _mark_changed(self) -> None:
        """Remember where on the device's stream the state's last change stands."""
        if self.state.accelerator.device.type == "cuda":
            self.changed = torch.cuda.Event()
            self.changed.record()

    def _save_now(self) -> str:
        """Write the last finished step while the main thread is in the next one; return what to say of it."""
        state = self.state
        if not state.leads:
            return ""
        if state.step == 0:
            return "stopped before the first step; nothing is saved"
        with ExitStack() as stack:
            if self.changed is not None:  # on a stream of its own, which doesn't wait for the step in flight
                stream = torch.cuda.Stream()
                stream.wait_event(self.changed)
                stack.enter_context(torch.cuda.stream(stream))
            if checkpoints.steps(state.job.output)[-1:] != [state.step]:
                checkpointing.save(state)
            if not export_of(state.job.output, state.step).exists():
                checkpointing.export_step(state)
        return f"stopped; step {state.step} of {state.settings.steps} is saved"

    def save(self) -> None:
        """Write a checkpoint of this step, unless there is one."""
        run = self.state.job.output
        if self.distiller is not None:
            self.distiller.check()
        if self.saved_step == self.state.step and checkpoints.steps(run)[-1:] == [self.state.step]:
            return
        checkpointing.save(self.state)
        checkpointing.export_step(self.state)
        if self.log is not None:
            self.log.draw()
        self.saved_at, self.saved_step = time.monotonic(), self.state.step
        wait_for_all(self.state.accelerator)

    def _export_missing(self) -> None:
        """Export the checkpoint that the run begins with, where a kill came before its export."""
        state, run = self.state, self.state.job.output
        there = export_of(run, state.step).exists() and (run / result_name(state.settings)).exists()
        if self._anybody(state.leads and state.step > 0 and not there):
            checkpointing.export_step(state)

    # -- Parts of a step -----------------------------------------------------------------------------------------------

    def _activations(self) -> AbstractContextManager[Any]:
        """Return where the blocks' inputs wait for the way back."""
        if not self.state.settings.offload_activations:
            return nullcontext()
        return torch.autograd.graph.save_on_cpu(pin_memory=self.state.accelerator.device.type == "cuda")

    def _loss(self, batch: Batch, draws: Draws, micro: int, metrics: StepMetrics) -> Tensor:
        """Return the loss of a pass, of clips or of a student beside its teacher, and note what it measured."""
        state = self.state
        if self.distiller is not None:
            loss, errors, found = self.distiller.loss(batch, draws, self._pass(micro))
            metrics.add_imitation(found)
        else:
            with state.narrowed():
                loss, errors = flow_loss(state.model, batch, draws, state.settings)
                if batch.speech is None and state.accelerator.num_processes > 1:
                    loss = loss + state.without_audio()
        metrics.add(batch, draws, errors)
        return loss

    def _numbers(self) -> Iterator[int]:
        """Return the numbers of this process's batches, from the current step on."""
        first = self.state.batch_number(0)
        for step in range(self.state.settings.steps - self.state.step):
            for micro in range(self.state.settings.accumulate):
                yield first + step * self.state.batches + self._pass(micro) % self.state.batches

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

    def _agree(self, metrics: StepMetrics) -> tuple[int, float]:
        """Return what all processes do after this step, and how many have a loss that isn't finite; before the step."""
        state, accelerator = self.state, self.state.accelerator
        files = {word: state.leads and said(state.job.output, word) for word in WORDS}
        late = state.leads and time.monotonic() - self.saved_at >= state.settings.checkpoint_every_s
        row = [
            metrics.loss,
            float(bool(metrics.broken)),
            float(files["save"] or late),
            float(files["stop"] or self.stop.asked),
            float(len(metrics.damaged)),
        ]
        summed = accelerator.reduce(torch.tensor(row, dtype=torch.float64, device=accelerator.device), "sum")
        loss, broken, save, stop, damaged = (float(value) for value in summed)
        if damaged:
            metrics.damaged = self._of_all(metrics.damaged)
            for key in sorted(set(metrics.damaged) - self.told):
                note(f"sample {key} is damaged: others stand for it; `avatarctl data check {state.job.data}` lists all")
            self.told |= set(metrics.damaged)
        metrics.loss = loss / accelerator.num_processes
        return STOP if stop else SAVE if save else GO, broken

    def _of_all(self, keys: list[str]) -> list[str]:
        """Return the keys of all processes."""
        return list(gather_object(keys)) if self.state.accelerator.num_processes > 1 else keys

    def _clip(self) -> float:
        state = self.state
        limit = clip_limit(state.settings, state.step)
        norm = state.accelerator.clip_grad_norm_(state.model.parameters(), limit)
        norm = float(state.model.get_global_grad_norm() if norm is None else norm)  # DeepSpeed clips by itself
        shorten_outlier(state.model.parameters(), state.settings, state.step, norm)
        return norm

    # -- What is seen of it --------------------------------------------------------------------------------------------

    def _note(self, metrics: StepMetrics, norm: float, step_s: float) -> None:
        state, settings = self.state, self.state.settings
        first = math.isnan(state.average)
        state.average = metrics.loss if first else (1 - AVERAGE_SHARE) * state.average + AVERAGE_SHARE * metrics.loss
        if self.log is not None:
            rate = learning_rate(settings, state.step - 1)
            seen = {**metrics.by_branch(), **metrics.by_segment()}
            values = {"loss": metrics.loss, **seen, "grad_norm": norm, "learning_rate": rate}
            damaged = {"damaged": len(metrics.damaged)} if metrics.damaged else {}
            self.log.add(state.step, {**values, "step_s": round(step_s, 4), **damaged, **self._memory()})
        if state.step % settings.log_every == 0 or state.step == settings.steps:
            left_s = step_s * (settings.steps - state.step)
            self.show(state.step, settings.steps, loss=state.average, step_s=step_s, left_s=left_s)

    def _note_skipped(self, metrics: StepMetrics, loss: bool) -> None:
        """Log a step that was skipped, with its samples; raise ``QualityError`` after too many in a row."""
        state, most = self.state, self.state.settings.max_bad_steps
        keys = self._of_all(metrics.broken if loss else metrics.keys)
        what = "loss" if loss else "gradient"
        if self.log is not None:
            self.log.add(state.step, {"skipped": what, "samples": keys})
        words = f"step {state.step}: the {what} is not finite with sample {', '.join(keys)}"
        note(f"{words}; the step was skipped")
        if state.bad_steps >= most:
            lower = f"{state.settings.learning_rate / 10:g}"
            own = f"learning_rate {lower} in this stage: copy the preset (avatarctl presets copy) and change it there"
            rate = own if is_stage(state.job.output) else f"--learning-rate {lower}"
            narrow = is_narrow(state.settings, state.accelerator.device)
            raise QualityError(
                f"{words}, and so it was with the {most} steps up to it: the run ends here",
                f"resume from its last checkpoint with {rate}{', or with --dtype float32' if narrow else ''}; if that helps "
                f"no more: remove the newest of {state.job.output / checkpoints.FOLDER}, and the one before is resumed",
            )

    def _memory(self) -> dict[str, float]:
        if self.state.accelerator.device.type != "cuda":
            return {}
        return {"peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 3)}

    def _measure(self) -> None:
        """Measure the held-out samples when it is time for it."""
        state, settings = self.state, self.state.settings
        if not state.samples.whole_held_out or (state.step % settings.holdout_every and state.step != settings.steps):
            return
        losses = held_out_loss(state) if self.distiller is None else held_out_imitation(state, self.distiller)
        if self.log is not None:
            self.log.add(state.step, losses)

    def _validate(self) -> None:
        """Render the validation videos of this step, where it has some; a stop in the middle loses nothing but them."""
        state = self.state
        if not self._anybody(state.leads and validation.lacking(state, self.videos)):
            return
        if state.step and self.saved_step != state.step:
            self.save()
        rows = validation.validate(state, self.videos, lambda: self.stop.asked)
        wait_for_all(state.accelerator)
        rows = list(gather_object(rows)) if state.accelerator.num_processes > 1 and not state.sharded else rows
        if self.log is not None:
            for row in rows:
                self.log.add(state.step, row)

    def _anybody(self, says: bool) -> bool:
        """Return whether one of the processes says so."""
        row = torch.tensor([float(says)], device=self.state.accelerator.device)
        return bool(self.state.accelerator.reduce(row, "sum").item())

    def _leave(self) -> None:
        state = self.state
        if state.leads:
            for folder in listening(state.job.output):
                (folder / "stop").unlink(missing_ok=True)
        wait_for_all(state.accelerator)
        words = f"stopped; step {state.step} of {state.settings.steps} is saved"
        raise Interrupted(words, self._hint(), self.stop.signal or 2)

    def _hint(self) -> str:
        state, run = self.state, self.state.job.output
        use = str(run / result_name(state.settings))
        if state.settings.exports == 0:
            use = f"avatarctl export {shlex.quote(str(run))} --output {result_name(state.settings)}"
        return f"resume with the same command; what is trained so far: {use}"
