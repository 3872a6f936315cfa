"""The teacher of a student: the guided velocity of the network under its LoRA, and its small steps over one large one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from avatarctl.networks.block import ContextKV
from avatarctl.networks.transformer import StableAvatarTransformer3DModel
from avatarctl.sampling import guidance
from avatarctl.sampling.guidance import CONDITIONAL, Inputs, Scheme
from avatarctl.settings.render import RenderSettings
from avatarctl.settings.train import TrainSettings
from avatarctl.training.loss import Batch, longer_text

# Of noisy latents (B, C, T, H, W) at noise levels (B,): the guided velocity, and the conditional one.
Velocity = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def scheme_of(settings: TrainSettings) -> Scheme:
    """Return the teacher's table of passes."""
    return guidance.scheme_of(
        RenderSettings(
            guidance=settings.teacher_guidance,
            audio_scale=settings.teacher_audio_scale,
            text_scale=settings.teacher_text_scale,
        )
    )


class Scene:
    """The conditions of a batch as passes read them. Texts are embedded once, by the network as it is at the first pass.

    ``ahead``: keep the blocks' keys and values of texts; not where blocks' weights are there only while they compute.
    """

    def __init__(self, model: StableAvatarTransformer3DModel, batch: Batch, ahead: bool) -> None:
        self.model, self.batch, self.ahead = model, batch, ahead
        self._contexts: dict[str, tuple[ContextKV, ...]] = {}

    def predict(
        self,
        latents_BCTHW: Tensor,
        sigma_B: Tensor,
        inputs: Inputs,
        rows: Sequence[int] | None = None,
        tokens: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the velocity of one pass, and the audio tokens that it read; ``rows``: of these samples alone.

        ``tokens``: what the adapter made of the same audio, latents and noise levels.
        """
        batch, at = self.batch, list(range(len(self.batch.keys)) if rows is None else rows)
        assert batch.speech is not None, "pictures are refused"
        speech = None
        if inputs.tokens == "adapter" and tokens is None:
            speech = batch.speech[at] if inputs.audio == "window" else torch.zeros_like(batch.speech[at])
        velocity, heard = self.model(
            hidden_states=latents_BCTHW,
            timestep=sigma_B * 1000,
            condition=batch.condition[at],
            audio_states=speech,
            audio_tokens=tokens if inputs.tokens == "adapter" else None,
            return_dict=False,
            **self._text(inputs.text, at),
        )
        return velocity.float(), heard

    def _text(self, which: str, at: list[int]) -> dict[str, object]:
        texts, null = longer_text(self.batch.text, self.batch.null_text)
        text = texts if which == "positive" else null.expand(len(texts), -1, -1)
        if not self.ahead:
            return {"encoder_hidden_states": text[at], "encoder_hidden_states_image": self.batch.image_tokens[at]}
        if which not in self._contexts:
            self._contexts[which] = self.model.precompute_context(text, self.batch.image_tokens)
        context = self._contexts[which]
        if len(at) == len(texts):
            return {"context": context}
        return {"context": tuple(ContextKV(*(part[at] for part in block)) for block in context)}


@dataclass(frozen=True)
class Teacher:
    """How the teacher predicts: its passes, between which noise levels it is guided, its small steps for one of the student's."""

    scheme: Scheme
    interval: tuple[float, float] | None
    evaluations: int
    shift: float

    def guided(self, scene: Scene, latents_BCTHW: Tensor, sigma_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return the guided velocity of each sample at its noise level, and the conditional pass's, both in float32."""
        conditional, heard = scene.predict(latents_BCTHW, sigma_B, CONDITIONAL)
        schemes = [guidance.active(self.scheme, level, self.interval) for level in sigma_B.tolist()]
        rows = [row for row, scheme in enumerate(schemes) if scheme != guidance.none()]
        if not rows:
            return conditional, conditional
        tokens = {"window": None if heard is None else heard[rows]}
        predictions = {CONDITIONAL: conditional[rows]}
        for inputs in self.scheme:
            if inputs not in predictions:
                known = tokens.get(inputs.audio)
                predictions[inputs], made = scene.predict(latents_BCTHW[rows], sigma_B[rows], inputs, rows, known)
                if inputs.tokens == "adapter":
                    tokens[inputs.audio] = made
        velocity = conditional.clone()
        velocity[rows] = guidance.combine(self.scheme, predictions)
        return velocity, conditional

    def segment(self, scene: Scene, latents_BCTHW: Tensor, begin_B: Tensor, end_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean velocity of the guided path from time ``begin_B`` to ``end_B`` (1 noise … 0 video, before the
        shift), walked in small Adams-Bashforth steps, and the conditional velocity at its beginning.
        """

        def velocity(latents: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
            return self.guided(scene, latents, sigma)

        return walk(velocity, latents_BCTHW, begin_B, end_B, self.evaluations, self.shift)


def walk(
    velocity: Velocity, latents_BCTHW: Tensor, begin_B: Tensor, end_B: Tensor, steps: int, shift: float
) -> tuple[Tensor, Tensor]:
    """Return the mean velocity from ``begin_B`` to ``end_B`` in ``steps`` steps of second order, and the first conditional one.

    The first small step is Euler's; the others follow the line through the last two velocities, as solver ab2 does.
    """

    def at(part: int) -> Tensor:
        return level(begin_B + (end_B - begin_B) * (part / steps), shift)

    def wide(value_B: Tensor) -> Tensor:
        return value_B.view(-1, 1, 1, 1, 1)

    state = latents_BCTHW
    before: Tensor | None = None
    change_before: Tensor | None = None
    first: Tensor | None = None
    for part in range(steps):
        change = at(part + 1) - at(part)
        now, conditional = velocity(state, at(part))
        first = conditional if first is None else first
        if before is None or change_before is None:
            step = now
        else:
            step = now + wide((change / (2 * change_before)).clamp(max=1)) * (now - before)
        state = state + wide(change) * step
        before, change_before = now, change
    assert first is not None
    return (state - latents_BCTHW) / wide(level(end_B, shift) - level(begin_B, shift)), first


def level(time_B: Tensor, shift: float) -> Tensor:
    """Return the noise level at a time between 1 (noise) and 0 (video), shifted as generation's schedule is."""
    time = time_B.double()
    return (shift * time / (1 + (shift - 1) * time)).float()


def time_of(sigma_B: Tensor, shift: float) -> Tensor:
    """Return the time of a noise level: what :func:`level` undoes."""
    return sigma_B / (shift - (shift - 1) * sigma_B)
