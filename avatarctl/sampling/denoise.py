"""The sampler: run one window step at a time and yield final latents stride by stride.

The state of a render between two window steps is one tensor per window in flight, as its latest step left it (with solver ab2
also the velocity of that step, which is read and blended just as the latents are): of all windows that cover a latent frame,
the last one holds the frame's value of a step, and no neighbour is ever further than a window's next step needs (see
``wavefront``). So a window's input is read from the last window that covers each frame, and its left edge is blended with
what the window before it holds after the same step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

import numpy as np
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from avatarctl.sampling.blend import Blend, blend_left, edge_weights
from avatarctl.sampling.wavefront import Order, Progress, next_window
from avatarctl.sampling.windows import Plan, Window

# Noise of latent frames start … stop - 1 as (1, C, T, H, W).
Noise = Callable[[int, int], Tensor]


@dataclass(frozen=True)
class Schedule:
    """``sigmas``: noise levels, one more than steps, the last is 0. ``timesteps``: what the network is told, 0 … 1000."""

    sigmas: Tensor
    timesteps: Tensor

    @property
    def steps(self) -> int:
        """The number of denoising steps."""
        return len(self.timesteps)

    def step(self, latents: Tensor, velocity: Tensor, i: int, before: Tensor | None = None) -> Tensor:
        """Take step ``i`` in float32, by Euler's rule, or with the velocity ``before`` by that of Adams and Bashforth.

        Euler: what diffusers' ``FlowMatchEulerDiscreteScheduler.step`` gives, without state. Adams-Bashforth of second
        order with steps of any length: the line through both velocities is followed, ``v + c (v - before)`` with ``c`` half
        of the step over the step before it, at most 1.
        """
        change = (self.sigmas[i + 1] - self.sigmas[i]).to(latents.device)
        velocity = velocity.float()
        if before is not None:
            ahead = (change / (2 * (self.sigmas[i] - self.sigmas[i - 1]).to(latents.device))).clamp(max=1)
            velocity = velocity + ahead * (velocity - before)
        return latents.float() + change * velocity


def schedule(steps: int, shift: float = 5.0, kind: str = "released") -> Schedule:
    """Return the noise levels of diffusers' flow-matching Euler scheduler.

    ``released`` shifts the low end twice, as the published code does (last sigma 0.0244 at 50 steps, shift 5); ``textbook``
    shifts a linear schedule once (0.005); ``uniform`` shifts steps of equal length, the last one down to 0.
    """
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    if kind == "released":
        scheduler.set_timesteps(steps)
    else:
        scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 1000 if kind == "textbook" else 1 / steps, steps))
    return Schedule(scheduler.sigmas.clone(), scheduler.timesteps.clone())


@dataclass(frozen=True)
class InFlight:
    """A window after ``done`` steps: ``latents`` (1, C, T, H, W) in float32; ``guidance_residual`` if guidance is reused;
    ``velocity`` of the latest step, blended as the latents are, if the solver needs it.

    It never changes, its tensors neither: a checkpoint may be written of it while the next steps run.
    """

    done: int
    latents: Tensor
    guidance_residual: Tensor | None = None
    velocity: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that are there, by name: what is saved, and passed on to other processes."""
        found = {name: getattr(self, name) for name in FIELDS}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    @classmethod
    def of(cls, done: int, tensors: Mapping[str, Tensor]) -> InFlight:
        """Return the window that holds these tensors."""
        return cls(done, **tensors)


FIELDS = tuple(field.name for field in fields(InFlight) if field.name != "done")


class WindowRequest(NamedTuple):
    """A window whose velocity at ``step`` is wanted: its latents (1, C, T, H, W), and what its guidance keeps."""

    window: Window
    step: int
    latents: Tensor
    guidance_residual: Tensor | None


# euler: along the velocity. ab2: Adams-Bashforth of second order, along its line through this step's and the one before.
Solver = Literal["euler", "ab2"]

# Predicts the guided velocity of windows that don't depend on each other, and what each of them keeps from now on.
Predict = Callable[[Sequence[WindowRequest]], list[tuple[Tensor, Tensor | None]]]


@dataclass(frozen=True)
class Final:
    """Latents (1, C, T, H, W) of latent frames ``start`` … that will not change any more."""

    window: int
    start: int
    latents: Tensor


class Sampler:
    """The windows in flight and how far they are. ``windows`` and ``progress`` are all there is to save and restore."""

    def __init__(
        self,
        plan: Plan,
        levels: Schedule,
        noise: Noise,
        predict: Predict,
        blend: Blend = "linear",
        windows: dict[int, InFlight] | None = None,
        first: int = 0,
        batch: int = 1,
        solver: Solver = "euler",
    ) -> None:
        self.batch, self.solver = batch, solver
        self.plan, self.levels, self.noise, self.predict, self.blend = plan, levels, noise, predict, blend
        self.windows = dict(windows or {})
        done = {index: window.done for index, window in self.windows.items()}
        self.progress = Progress(plan, levels.steps, done, first)

    def run(self, kind: Order = "wavefront") -> Iterator[list[Final]]:
        """Run all window steps that are left; after each one, give what became final by it, from left to right.

        With ``batch`` above 1 up to so many windows that don't depend on each other take their step together.
        """
        while not self.progress.finished():
            indices = [next_window(self.progress, kind)]
            if self.batch > 1 and kind == "wavefront":
                indices = self.progress.anti_diagonal()[: self.batch]
            self.windows.update(self.step([self.plan.get(index) for index in indices]))
            retired = [window for index in indices for window in self.progress.advance(index)]
            yield [self._retire(window) for window in retired]

    def step(self, windows: Sequence[Window]) -> dict[int, InFlight]:
        """Return windows that don't depend on each other after their next step, from the state as it is."""
        asked = []
        for window in windows:
            before = self.windows.get(window.index)
            done, guidance_residual = (before.done, before.guidance_residual) if before else (0, None)
            asked.append(WindowRequest(window, done, self.read(window), guidance_residual))
        predicted = self.predict(asked)
        return {one.window.index: self._stepped(one, *found) for one, found in zip(asked, predicted, strict=True)}

    def _stepped(self, asked: WindowRequest, velocity: Tensor, guidance_residual: Tensor | None) -> InFlight:
        """Step along the velocity, then blend the left edge with what the window to the left holds after the same step."""
        keeps = self.solver == "ab2"
        before = self._covering(asked.window, "velocity") if keeps and asked.step else None
        tensors = {"latents": self.levels.step(asked.latents, velocity, asked.step, before)}
        if keeps:
            tensors["velocity"] = velocity.float()
        # In the first step the later window overwrites: blending two noises would take variance away.
        if asked.step:
            tensors = {name: self._blended(asked.window, name, tensor) for name, tensor in tensors.items()}
        if guidance_residual is not None:
            tensors["guidance_residual"] = guidance_residual
        # As they are read back from a file, or come from another process.
        return InFlight.of(asked.step + 1, {name: tensor.contiguous() for name, tensor in tensors.items()})

    def _blended(self, window: Window, name: str, tensor: Tensor) -> Tensor:
        """Return a window's new tensor with its left edge blended with what the window to the left holds."""
        left = self.windows.get(window.index - 1)
        if left is None:  # the first one; or a render that lost its state began here again (``first``)
            return tensor
        offset = window.start - self.plan.start_of(window.index - 1)
        edge = left.tensors()[name][:, :, offset : offset + window.overlap]
        return blend_left(tensor, edge, edge_weights(window.overlap, self.blend))

    def read(self, window: Window) -> Tensor:
        """Return the latents that a window's next step starts from: each frame from the last window that covers it."""
        if window.index not in self.windows:
            return self.noise(window.start, window.stop)
        return self._covering(window, "latents")

    def _covering(self, window: Window, name: str) -> Tensor:
        """Return one of a window's tensors as its next step needs it: each frame from the last window that covers it."""
        tensor = self.windows[window.index].tensors()[name]
        for index in self.plan.right_of(window.index):
            if index in self.windows:
                start, stop = self.plan.start_of(index), min(self.plan.stop_of(index), window.stop)
                tensor = tensor.clone()
                right = self.windows[index].tensors()[name]
                tensor[:, :, start - window.start : stop - window.start] = right[:, :, : stop - start]
        return tensor

    def _retire(self, index: int) -> Final:
        window = self.plan.get(index)
        latents = self.windows.pop(index).latents[:, :, : window.final_stop - window.start]
        return Final(index, window.start, latents)
