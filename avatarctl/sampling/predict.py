"""Predict the guided velocity of any window at any step with the transformer and its conditions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from avatarctl.errors import UsageError
from avatarctl.networks.block import ContextKV
from avatarctl.networks.transformer import StableAvatarTransformer3DModel
from avatarctl.sampling import guidance
from avatarctl.sampling.denoise import Final, InFlight, Noise, Sampler, Schedule, WindowRequest, schedule
from avatarctl.sampling.guidance import CONDITIONAL, Inputs, Scheme, scheme_of
from avatarctl.sampling.noise import window_noise
from avatarctl.sampling.team import Team, TeamSampler
from avatarctl.sampling.windows import TOKENS_AT_ONCE, Plan, Window
from avatarctl.settings.render import RenderSettings


@dataclass(frozen=True)
class Conditions:
    """What a render is conditioned on. The first four never change; ``speech`` is asked once per window.

    ``positive``, ``negative``: text states (1, L, D). ``image``: image tokens (1, 257, D). ``reference``: mask and reference
    latents (1, 20, F, H, W). ``speech(window)``: wav2vec 2.0 states (1, L, D) of exactly the window's samples.
    """

    positive: Tensor
    negative: Tensor
    image: Tensor
    reference: Tensor
    speech: Callable[[Window], Tensor]


class Predictor:
    """Runs the passes of a window step.

    What doesn't change is made and sent to the device once; speech states live there while a window is in flight. Of a window
    step only the latents go there, and only the guided velocity comes back (with what guidance keeps, where it is reused).
    """

    def __init__(
        self,
        transformer: StableAvatarTransformer3DModel,
        conditions: Conditions,
        scheme: Scheme,
        levels: Schedule,
        window: int,
        interval: tuple[float, float] | None = None,
        reuse: int = 1,
        precompute: bool = True,
    ) -> None:
        if reuse > 1 and CONDITIONAL not in scheme:
            raise UsageError(
                f"guidance_reuse: got {reuse} with a guidance that has no conditional pass to add a guidance residual to",
                "use guidance_reuse 1, or a text_scale other than 0",
            )
        self._transformer, self._conditions, self._scheme = transformer, conditions, scheme
        self._levels, self._window, self._interval, self._reuse = levels, window, interval, reuse
        self._precompute = precompute
        self._contexts: dict[str, tuple[ContextKV, ...]] = {}
        self._rotary: dict[torch.Size, tuple[Tensor, Tensor]] = {}
        self._speech: dict[int, Tensor] = {}
        self._sent: dict[str, Tensor] = {}
        self._device = transformer.device
        self._reference = conditions.reference.to(self._device)
        self._timesteps = levels.timesteps.to(self._device)

    @torch.no_grad()
    def __call__(self, asked: Sequence[WindowRequest]) -> list[tuple[Tensor, Tensor | None]]:
        """Return the guided velocity of each window at its step, and what guidance keeps for the window's next steps.

        Windows whose passes are the same and whose tensors have the same shapes share them.
        """
        alike: dict[Any, list[int]] = {}
        for place, one in enumerate(asked):
            scheme, reused = self._scheme_at(one)
            shapes = (one.latents.shape, self._states(one.window).shape)
            alike.setdefault((tuple(scheme.items()), reused, shapes), []).append(place)
        found: dict[int, tuple[Tensor, Tensor | None]] = {}
        for (rows, reused, _), places in alike.items():
            velocity, residual = self._guided(dict(rows), reused, [asked[place] for place in places])
            for row, place in enumerate(places):
                own, before = velocity[row : row + 1], asked[place].guidance_residual
                if reused:
                    assert before is not None
                    found[place] = own + before, before
                else:
                    found[place] = own, None if residual is None else residual[row : row + 1].clone()
        return [found[place] for place in range(len(asked))]

    def _scheme_at(self, asked: WindowRequest) -> tuple[Scheme, bool]:
        """Return the passes of a window's step, and whether the difference that it keeps stands for the others."""
        scheme = guidance.active(self._scheme, float(self._levels.sigmas[asked.step]), self._interval)
        if self._reuse > 1 and len(scheme) > 1 and asked.guidance_residual is not None and asked.step % self._reuse:
            return guidance.none(), True
        return scheme, False

    def _guided(self, scheme: Scheme, reused: bool, asked: Sequence[WindowRequest]) -> tuple[Tensor, Tensor | None]:
        """Return the guided velocities (B, C, T, H, W) where the windows live, and what guidance keeps of them.

        Passes are summed on the device, in float32: where they are summed changes no bit. ``reused``: the conditional pass
        alone is run, and what the windows keep is added later.
        """
        predictions = self._passes(scheme, asked)
        home = asked[0].latents.device
        guided = guidance.combine(scheme, predictions)
        if self._reuse == 1 or reused or len(scheme) == 1:  # outside the interval there is no difference to keep
            return guided.to(home), None
        residual = guided - predictions[CONDITIONAL].float()
        return guided.to(home), residual.to(home)

    def forget(self, window: int) -> None:
        """Drop the speech states of windows up to this one: they are final."""
        self._speech = {index: states for index, states in self._speech.items() if index > window}

    def _passes(self, scheme: Scheme, asked: Sequence[WindowRequest]) -> dict[Inputs, Tensor]:
        """Return what each pass of the scheme predicts (B, C, T, H, W), on the device."""
        latents = torch.cat([one.latents for one in asked]).to(self._device)
        timestep = torch.stack([self._timesteps[one.step] for one in asked])
        count = len(asked)
        # The adapter hears audio, latents and time, not the text: passes that share these share its tokens.
        heard: dict[str, Tensor | None] = {}
        predictions = {}
        for inputs in scheme:
            speech = None
            if inputs.tokens == "adapter" and inputs.audio not in heard:
                speech = torch.cat([self._states(one.window) for one in asked])
                speech = torch.zeros_like(speech) if inputs.audio == "zero" else speech
            out = self._transformer(
                hidden_states=latents,
                timestep=timestep,
                condition=self._reference.expand(count, -1, -1, -1, -1),
                audio_states=speech,
                audio_tokens=heard.get(inputs.audio) if inputs.tokens == "adapter" else None,
                window=self._window,
                rotary_emb=self._places(latents),
                **self._text(inputs.text, count),
            )
            if inputs.tokens == "adapter":
                heard[inputs.audio] = out.audio_tokens
            predictions[inputs] = out.sample
        return predictions

    def _text(self, which: Literal["positive", "negative"], count: int) -> dict[str, object]:
        if not self._precompute:
            states = self._constant(which).expand(count, -1, -1)
            return {"encoder_hidden_states": states, "encoder_hidden_states_image": self._constant("image")}
        if which not in self._contexts:
            self._contexts[which] = self._transformer.precompute_context(self._constant(which), self._constant("image"))
        context = self._contexts[which]
        if count > 1:
            context = tuple(ContextKV(*(part.expand(count, -1, -1, -1) for part in block)) for block in context)
        return {"context": context}

    def _constant(self, name: Literal["positive", "negative", "image"]) -> Tensor:
        """Return text states or image tokens on the device."""
        if name not in self._sent:
            self._sent[name] = getattr(self._conditions, name).to(self._device)
        return self._sent[name]

    def _places(self, latents: Tensor) -> tuple[Tensor, Tensor] | None:
        if not self._precompute:
            return None
        if latents.shape[1:] not in self._rotary:
            self._rotary[latents.shape[1:]] = self._transformer.rope(latents[:1])
        return self._rotary[latents.shape[1:]]

    def _states(self, window: Window) -> Tensor:
        if window.index not in self._speech:
            self._speech[window.index] = self._conditions.speech(window).to(self._device)
        return self._speech[window.index]


def windows_at_once(settings: RenderSettings, transformer: StableAvatarTransformer3DModel, tokens: int) -> int:
    """Return how many windows may share a pass. auto: as many as a GPU takes at once, one on the CPU."""
    if settings.window_batch != "auto":
        return settings.window_batch
    return max(1, TOKENS_AT_ONCE // tokens) if transformer.device.type == "cuda" else 1


def batch_of(
    settings: RenderSettings, transformer: StableAvatarTransformer3DModel, conditions: Conditions, plan: Plan
) -> int:
    """Return how many of a plan's windows may share a pass."""
    rows, columns = conditions.reference.shape[-2:]
    patch = transformer.dims.patch
    tokens = plan.window // patch[0] * (rows // patch[1]) * (columns // patch[2])
    return windows_at_once(settings, transformer, tokens)


def make_sampler(
    transformer: StableAvatarTransformer3DModel,
    conditions: Conditions,
    plan: Plan,
    settings: RenderSettings,
    noise: Noise | None = None,
    windows: dict[int, InFlight] | None = None,
    first: int = 0,
    precompute: bool = True,
    team: Team | None = None,
    batch: int | None = None,
) -> tuple[Sampler, Predictor]:
    """Build the sampler of a render, from its beginning or from a saved state (``windows`` in flight, ``first``).

    With a ``team`` of several processes, its windows are shared among them. ``batch``: windows that may share a pass (None:
    as the settings say).
    """
    if batch is None:
        batch = batch_of(settings, transformer, conditions, plan)
    levels = schedule(settings.steps, settings.shift, settings.schedule)
    predictor = Predictor(
        transformer,
        conditions,
        scheme_of(settings),
        levels,
        plan.window,
        settings.guidance_interval,
        settings.guidance_reuse,
        precompute,
    )
    if noise is None:
        channels, rows, columns = transformer.dims.out_dim, *conditions.reference.shape[-2:]

        def noise(start: int, stop: int) -> Tensor:
            return window_noise(settings.seed, start, stop, (channels, rows, columns))

    state = (plan, levels, noise, predictor, settings.blend, windows, first)
    if team is not None and team.size > 1:
        return TeamSampler(team, *state, batch=batch, solver=settings.solver), predictor
    return Sampler(*state, batch=batch, solver=settings.solver), predictor


def sample_stream(
    transformer: StableAvatarTransformer3DModel,
    conditions: Conditions,
    plan: Plan,
    settings: RenderSettings,
    noise: Noise | None = None,
    callback: Callable[[Sampler], None] | None = None,
) -> Iterator[Final]:
    """Return final latents from left to right as they come; ``callback`` is called after every window step."""
    sampler, predictor = make_sampler(transformer, conditions, plan, settings, noise)
    for finals in sampler.run(settings.order):
        if callback:
            callback(sampler)
        for final in finals:
            predictor.forget(final.window)
            yield final


def sample_latents(
    transformer: StableAvatarTransformer3DModel,
    conditions: Conditions,
    plan: Plan,
    settings: RenderSettings,
    noise: Tensor | None = None,
    callback: Callable[[Sampler], None] | None = None,
) -> Tensor:
    """Return the final latents (1, C, L, H, W) of a whole video at once, without files.

    ``noise``: initial noise of that shape, instead of what ``settings.seed`` gives.
    """
    source: Noise | None = None
    if noise is not None:
        whole = noise

        def source(start: int, stop: int) -> Tensor:
            return whole[:, :, start:stop]

    stream = sample_stream(transformer, conditions, plan, settings, source, callback)
    return torch.cat([final.latents for final in stream], dim=2)
