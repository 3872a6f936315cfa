"""The flow-matching loss of a batch, weighted by face and lips."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from avatarctl.settings.train import TrainSettings
from avatarctl.training.draws import Draws

SMALLEST_MASK = 1e-3  # mean of a mask: one that is nearly empty would blow up its few values


@dataclass(frozen=True)
class Batch:
    """B samples of one size: C latent channels, T latent frames, H W latent rows and columns, L text tokens, D widths.

    ``valid`` (B, T) is 0 for latent frames that only fill up a short clip.
    ``skipped``: keys of damaged samples that others stand for.
    """

    keys: tuple[str, ...]
    latents: Tensor  # (B, C, T, H, W)
    condition: Tensor  # (B, 4 + C, T, H, W)
    image_tokens: Tensor  # (B, 257, D)
    text: Tensor  # (B, L, D)
    null_text: Tensor  # (L, D)
    speech: Tensor | None  # (B, states, D); None for pictures
    face: Tensor  # (B, T, H, W)
    lips: Tensor  # (B, T, H, W)
    valid: Tensor  # (B, T)
    skipped: tuple[str, ...] = ()
    masked: Tensor | None = None  # (B, 2): whether a sample has a face mask and a lip mask of its own; None: all have
    weight: Tensor | None = None  # (B,): how much a sample's error counts; None: once

    def to(self, device: torch.device) -> Batch:
        """Return the same samples on another device."""
        moved: dict[str, Any] = {
            field.name: value.to(device, non_blocking=True)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **moved)

    def rows(self, which: Iterable[int]) -> Batch:
        """Return some of the samples."""
        at = list(which)
        count = len(self.keys)
        chosen: dict[str, Any] = {
            field.name: value[at]
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor) and field.name != "null_text"
        }
        assert all(len(getattr(self, name)) == count for name in chosen), "one row a sample"
        return replace(self, keys=tuple(self.keys[row] for row in at), **chosen)


def flow_loss(model: Callable[..., Any], batch: Batch, draws: Draws, settings: TrainSettings) -> tuple[Tensor, Tensor]:
    """Return the loss (a scalar), and every sample's own (B,) without gradient.

    Source: flow matching (Lipman et al. 2023) on latents as Wan2.1 and StableAvatar train it; weights by masks as in the
    released trainer of StableAvatar.
    """
    sigma = draws.sigma[:, None, None, None, None]
    noisy = (1 - sigma) * batch.latents + sigma * draws.noise
    target = draws.noise - batch.latents
    predicted = predict(model, batch, noisy, draws)
    weights = error_weights(batch, draws, settings)
    errors = weighted_error(predicted, target, weights, settings.motion_weight, settings.motion_axis)
    if batch.weight is not None:
        return (errors * batch.weight).mean(), errors.detach()
    return errors.mean(), errors.detach()


def predict(model: Callable[..., Any], batch: Batch, noisy_BCTHW: Tensor, draws: Draws) -> Tensor:
    """Return the predicted velocity, with the conditions that the draws leave."""
    text = _with_null(batch.text, batch.null_text, draws.no_text)
    out = model(
        hidden_states=noisy_BCTHW,
        timestep=draws.sigma * 1000,
        encoder_hidden_states=text,
        encoder_hidden_states_image=batch.image_tokens,
        condition=batch.condition,
        audio_states=None if batch.speech is None else batch.speech * ~draws.no_audio[:, None, None],
        audio_kept=None if batch.speech is None else ~draws.no_tokens,
        clip_level_audio=draws.clip_audio and batch.speech is not None,
        return_dict=False,
    )
    velocity: Tensor = out[0]
    return velocity.float()


def _with_null(text_BLD: Tensor, null_LD: Tensor, where_B: Tensor) -> Tensor:
    """Replace some samples' text states."""
    text, null = longer_text(text_BLD, null_LD)
    return torch.where(where_B[:, None, None], null, text)


def longer_text(text_BLD: Tensor, null_LD: Tensor) -> tuple[Tensor, Tensor]:
    """Return both with as many tokens: the shorter one is filled with zeros, as the transformer does anyway."""
    length = max(text_BLD.shape[1], len(null_LD))
    text = functional.pad(text_BLD, (0, 0, 0, length - text_BLD.shape[1]))
    return text, functional.pad(null_LD, (0, 0, 0, length - len(null_LD)))


def error_weights(batch: Batch, draws: Draws, settings: TrainSettings) -> Tensor:
    """Return the weight (B, 1, T, H, W) of each squared error: 1 + face + lips, the face alone, or the lips alone.

    With ``normalise_masks`` a mask-only weight has mean 1 over the clip's own frames. Frames that only fill up count nothing,
    and the rest counts the more, so that a short clip's loss is as large as a long one's.
    """
    valid = batch.valid[:, :, None, None]
    share = batch.valid.mean(1)[:, None, None, None].clamp_min(1e-6)
    # Without a mask of its own a sample counts once, not as if it were all face and all lips.
    masked = torch.ones(len(batch.keys), 2, device=batch.face.device) if batch.masked is None else batch.masked.float()
    face, lips = (masked[:, i, None, None, None] * mask for i, mask in enumerate((batch.face, batch.lips)))
    whole = 1 + settings.face_weight * face + settings.lip_weight * lips
    alone = torch.where((draws.branch == 1)[:, None, None, None], batch.face, batch.lips)
    if settings.normalise_masks:
        mean = (alone * valid).mean((1, 2, 3), keepdim=True) / share
        alone = alone / mean.clamp_min(SMALLEST_MASK)
    weights = torch.where((draws.branch == 0)[:, None, None, None], whole, alone)
    return (weights * valid / share)[:, None]


def weighted_error(
    predicted: Tensor, target: Tensor, weights: Tensor, motion_weight: float, motion_axis: str = "time"
) -> Tensor:
    """Return each sample's mean weighted squared error (B,), with a share for changes between neighbouring latent frames.

    ``motion_axis`` "channels": between neighbouring channels and without weights, as in the released trainer.
    """
    error = ((predicted - target) ** 2 * weights).mean((1, 2, 3, 4))
    if not motion_weight:
        return error
    if motion_axis == "channels":
        motion = ((predicted - target).diff(dim=1) ** 2).mean((1, 2, 3, 4))
        return (1 - motion_weight) * error + motion_weight * motion
    if predicted.shape[2] < 2:  # a picture has no motion
        return error
    change = (predicted - target).diff(dim=2)
    between = torch.minimum(weights[:, :, 1:], weights[:, :, :-1])
    motion = (change**2 * between).mean((1, 2, 3, 4))
    return (1 - motion_weight) * error + motion_weight * motion
