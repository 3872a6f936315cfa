"""Guided segment imitation: what a student learns from. READ FIRST of the distill files.

One network. Teacher: its LoRA off, every pass of the guidance, small steps. Student: its LoRA on, one pass, large Euler
steps. ``guidance``: where a clip was mixed with noise, the student's velocity has to be the guided one. ``steps``: the
student walks from noise in its own large steps, without gradient, and from each place its velocity has to lead to where the
teacher's small steps lead. Each sample's error is divided by the effect of guidance on it, since that differs tenfold.

Sources: guidance alone: Meng et al. 2023, stage 1; segments: PeRFlow (Yan et al. 2024); own paths: DAgger (Ross et al. 2011).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from avatarctl.errors import QualityError
from avatarctl.networks.lora_switch import lora_off, lora_taken_out
from avatarctl.sampling.denoise import schedule
from avatarctl.sampling.guidance import CONDITIONAL
from avatarctl.training.distill_draws import PathDraws, draw_path
from avatarctl.training.distill_teacher import Scene, Teacher, level, scheme_of, time_of
from avatarctl.training.draws import Draws, draw
from avatarctl.training.loss import Batch, error_weights, predict, weighted_error
from avatarctl.training.state import RunState

QUARTERS = 4  # of the time, by which errors of students of any number of steps are noted
PROBE = 0.7  # noise level at which the teacher is compared with the bare network


@dataclass(frozen=True)
class Spots:
    """Where the student is asked: noisy latents (B, C, T, H, W) at noise levels (B,); ``segment``: number, high noise first.

    ``begin`` and ``end`` (B,): the times of the segment that is to be crossed; None where the velocity itself is learnt.
    """

    latents: Tensor
    sigma: Tensor
    segment: tuple[int, ...]
    begin: Tensor | None = None
    end: Tensor | None = None


@dataclass(frozen=True)
class Imitation:
    """What a pass measured, by sample: the student's squared error, the effect of guidance, the number of the segment."""

    error: Tensor
    effect: Tensor
    segment: tuple[int, ...]


class Distiller:
    """The teacher and the student's paths of the step at hand; nothing of it outlives a step."""

    def __init__(self, state: RunState) -> None:
        settings = state.settings
        self.state, self.settings, self.model = state, settings, state.bare
        scheme, evaluations = scheme_of(settings), settings.teacher_evaluations
        self.teacher = Teacher(scheme, settings.teacher_interval, evaluations, settings.shift)
        self._paths: dict[tuple[int, int], tuple[PathDraws, list[Tensor]]] = {}
        self._probe: Batch | None = None
        self._bare: Tensor | None = None

    def loss(self, batch: Batch, draws: Draws, number: int) -> tuple[Tensor, Tensor, Imitation]:
        """Return the loss of pass ``number`` of a step (a scalar), every sample's own (B,), and what was measured.

        Teacher and path come first and without gradient, the student last: with checkpointing its blocks are computed again
        on the way back, which has to follow at once, while the LoRA is on.
        """
        spots = self._spots(batch, draws, number)
        target, conditional = self._target(batch, spots)
        with self.state.narrowed():
            velocity = predict(self.state.model, batch, spots.latents, replace(draws, sigma=spots.sigma))
        error, effect = self._errors(batch, draws, velocity, target), self._errors(batch, draws, conditional, target)
        losses = error / (effect + self.settings.error_floor)
        weight = 1.0 if batch.weight is None else batch.weight
        return (losses * weight).mean(), losses.detach(), Imitation(error.detach(), effect, spots.segment)

    def held_out(self, batch: Batch, key: str) -> Imitation:
        """Return what the student misses on one sample, at every segment of a path with noise of its own; no gradients."""
        settings, shape = self.settings, batch.latents.shape
        count = settings.distill_steps if settings.distill == "steps" else QUARTERS
        draws = draw(settings, shape, [("held-out", key, 0)]).to(batch.latents.device)
        times = torch.arange(count) / count if settings.distill == "steps" else (torch.arange(count) + 0.5) / count
        grid = level(1 - times, settings.shift)
        if settings.distill == "steps":
            states = self._walk(batch, draws.noise, count, count - 1)
        else:
            states = [(1 - sigma) * batch.latents + sigma * draws.noise for sigma in grid]
        found = []
        for place, (latents, sigma) in enumerate(zip(states, grid, strict=True)):
            spots = self._at(latents, sigma.expand(1), (place,), count)
            target, conditional = self._target(batch, spots)
            with self.state.narrowed():
                velocity = predict(self.model, batch, latents, replace(draws, sigma=spots.sigma))
            found.append([self._errors(batch, draws, each, target) for each in (velocity, conditional)])
        error, effect = (torch.cat(each) for each in zip(*found, strict=True))
        return Imitation(error, effect, tuple(range(count)))

    def check(self) -> None:
        """Raise ``QualityError`` where the teacher isn't the bare network, bit for bit, or that isn't what it was."""
        if self._probe is None:
            entry = self.state.samples.train[0]
            self._probe = self.state.samples.whole([entry])
        batch = self._probe.to(self.state.accelerator.device)
        with self._teaching():
            teacher = self._conditional(batch)
        with torch.no_grad(), self.state.narrowed(), lora_taken_out(self.model):
            bare = self._conditional(batch)
        self._bare = bare.cpu() if self._bare is None else self._bare
        if not (torch.equal(teacher, bare) and torch.equal(bare.cpu(), self._bare)):
            raise QualityError(
                f"step {self.state.step}: the teacher is not the network that the run began with (largest difference "
                f"{float((teacher.cpu() - self._bare).abs().max()):.3g}, expected 0): the student would learn from itself",
                "resume from the last checkpoint with the same command, and report this",
            )

    # -- Where the student is asked -------------------------------------------------------------------------------------

    def _spots(self, batch: Batch, draws: Draws, number: int) -> Spots:
        """Return the places that pass ``number`` of the step learns from."""
        settings, rows = self.settings, len(batch.keys)
        path, states = self._path(batch, number)
        if settings.distill == "guidance":
            if states:
                picks = [path.picks[row] for row in range(rows)]
                latents = torch.stack([states[pick][row] for row, pick in enumerate(picks)])
                return self._quarters(latents, level(1 - torch.tensor(picks) / path.steps, settings.shift))
            sigma = draws.sigma[:, None, None, None, None]
            return self._quarters((1 - sigma) * batch.latents + sigma * draws.noise, draws.sigma)
        each = settings.states_per_clip
        place = number // self.state.batches * each  # of this pass's first state on its path
        picks = [path.picks[place + row % each] for row in range(rows)]
        sigma = level(1 - torch.tensor(picks) / path.steps, settings.shift)
        clips = [row // each for row in range(rows)]
        if states:
            latents = torch.stack([states[pick][clip] for pick, clip in zip(picks, clips, strict=True)])
        else:
            mixed = sigma.to(batch.latents.device)[:, None, None, None, None]
            latents = (1 - mixed) * batch.latents + mixed * path.noise[clips].to(batch.latents.device)
        return self._at(latents, sigma, tuple(picks), path.steps)

    def _at(self, latents: Tensor, sigma: Tensor, segments: tuple[int, ...], count: int) -> Spots:
        """Return places at the beginnings of segments of a grid; or anywhere, for students of any number of steps."""
        if self.settings.distill == "guidance":
            return self._quarters(latents, sigma)
        begin = 1 - torch.tensor(segments, dtype=torch.float64) / count
        device = latents.device
        return Spots(latents, sigma.to(device), segments, begin.to(device), (begin - 1 / count).clamp(min=0).to(device))

    def _quarters(self, latents: Tensor, sigma: Tensor) -> Spots:
        past = (1 - time_of(sigma, self.settings.shift)) * QUARTERS
        return Spots(latents, sigma.to(latents.device), tuple(min(int(each), QUARTERS - 1) for each in past.tolist()))

    def _path(self, batch: Batch, number: int) -> tuple[PathDraws, list[Tensor]]:
        """Return the path that pass ``number`` learns from, and its states, none where it is the straight line to the clip.

        The passes of a step that read the same clips share one path: it is walked by the first of them, from the weights
        as they are in this step.
        """
        state, settings = self.state, self.settings
        shared = settings.distill == "steps"
        own = number % state.batches if shared else number
        name = (state.step, own)
        if name not in self._paths:
            self._paths = {each: kept for each, kept in self._paths.items() if each[0] == state.step and shared}
            each = settings.states_per_clip
            clips = -(-len(batch.keys) // each)
            wanted = settings.states_per_clip * settings.passes_per_batch if shared else len(batch.keys)
            drawn = draw_path(settings, state.step, own, clips, wanted, batch.latents.shape[1:])
            walked: list[Tensor] = []
            if drawn.own:
                first = batch.rows(range(0, len(batch.keys), each))
                noise = drawn.noise.to(batch.latents.device)
                walked = self._walk(first, noise, drawn.steps, max(drawn.picks))
            self._paths[name] = drawn, walked
        return self._paths[name]

    @torch.no_grad()
    def _walk(self, batch: Batch, noise: Tensor, steps: int, last: int) -> list[Tensor]:
        """Return the states 0 … ``last`` of the student's path from noise, as generation takes its steps."""
        grid = schedule(steps, self.settings.shift, "uniform")
        scene = Scene(self.model, batch, self._ahead)
        states = [noise]
        with self.state.narrowed():
            for place in range(last):
                sigma = grid.sigmas[place].expand(len(batch.keys)).to(noise.device)
                velocity, _ = scene.predict(states[-1], sigma, CONDITIONAL)
                states.append(grid.step(states[-1], velocity, place))
        return states

    # -- What it should have said ---------------------------------------------------------------------------------------

    def _target(self, batch: Batch, spots: Spots) -> tuple[Tensor, Tensor]:
        """Return the teacher's velocity at some places, and the conditional one, which guidance changes."""
        with self._teaching():
            scene = Scene(self.model, batch, self._ahead)
            if spots.begin is None or spots.end is None:
                return self.teacher.guided(scene, spots.latents, spots.sigma)
            return self.teacher.segment(scene, spots.latents, spots.begin, spots.end)

    @contextmanager
    def _teaching(self) -> Iterator[None]:
        """Let the model be the teacher: its LoRA off, no gradients, a block of narrow passes of its own."""
        with torch.no_grad(), self.state.narrowed(), lora_off(self.model):
            yield

    def _errors(self, batch: Batch, draws: Draws, velocity: Tensor, target: Tensor) -> Tensor:
        """Return each sample's mean squared error, weighted by masks; its weights have mean 1."""
        settings = self.settings
        weights = error_weights(batch, draws, settings)
        weights = weights / weights.mean((1, 2, 3, 4), keepdim=True).clamp_min(1e-6)
        return weighted_error(velocity, target, weights, settings.motion_weight, settings.motion_axis)

    def _conditional(self, batch: Batch) -> Tensor:
        noise = draw(self.settings, batch.latents.shape, [("probe",)]).noise.to(batch.latents.device)
        sigma = torch.full((1,), PROBE, device=noise.device)
        velocity, _ = Scene(self.model, batch, self._ahead).predict(noise, sigma, CONDITIONAL)
        return velocity

    @property
    def _ahead(self) -> bool:
        return not self.settings.block_swap


def by_segment(measured: Any, prefix: str = "err_base") -> dict[str, float]:
    """Return error over guidance effect, over all and by segment (1: highest noise); what guidance doesn't change is left out.

    ``measured``: (segment, error, effect) of each sample.
    """
    sums: dict[str, list[float]] = {}
    for segment, error, effect in measured:
        for name in (prefix, f"{prefix}_{segment + 1}"):
            known = sums.setdefault(name, [0.0, 0.0])
            known[0] += error
            known[1] += effect
    return {name: error / effect for name, (error, effect) in sorted(sums.items()) if effect > 0}
