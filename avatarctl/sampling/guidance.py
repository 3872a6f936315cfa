"""Tables of passes of the guidance schemes, and the weighted sum of their predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from avatarctl.errors import UsageError
from avatarctl.settings.render import RenderSettings

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Inputs:
    """What one pass of the transformer is given."""

    text: Literal["positive", "negative"]
    audio: Literal["window", "zero"]  # speech states into the adapter
    tokens: Literal["adapter", "zero"]  # audio tokens into the blocks


# A scheme: what goes in -> its weight. Weights add up to 1; no two passes are equal; none has weight 0.
Scheme = Mapping[Inputs, float]

CONDITIONAL = Inputs("positive", "window", "adapter")


def scheme(rows: Sequence[tuple[Inputs, float]]) -> Scheme:
    """Join equal passes and drop those of weight 0; raises ``UsageError`` when the weights don't add up to 1."""
    joined: dict[Inputs, float] = {}
    for inputs, weight in rows:
        # What the adapter would make of the audio doesn't matter to a pass whose tokens are zero.
        key = Inputs(inputs.text, "zero", "zero") if inputs.tokens == "zero" else inputs
        joined[key] = joined.get(key, 0.0) + weight
    if abs(sum(joined.values()) - 1) > 1e-6:
        raise UsageError(f"guidance: got weights that add up to {sum(joined.values()):g}, expected 1")
    return {inputs: weight for inputs, weight in joined.items() if weight}


def cfg(audio_scale: float, text_scale: float) -> Scheme:
    """Classifier-free guidance of audio and text as released: ``u + a (x - u) + t (c - x)``.

    ``u``: negative text without audio, ``x``: negative text with audio, ``c``: positive text with audio.
    """
    return scheme(
        [
            (Inputs("negative", "window", "zero"), 1 - audio_scale),
            (Inputs("negative", "window", "adapter"), audio_scale - text_scale),
            (CONDITIONAL, text_scale),
        ]
    )


def native(audio_weight: float, token_weight: float) -> Scheme:
    """Audio native guidance (StableAvatar, section 3.3): away from unheard speech, and from no refined audio at all.

    Refined audio is treated as predicted jointly with the latents, as VideoJAM's inner guidance does with motion (Chefer et
    al. 2025). Which conditions the two negative passes drop is our reading: the released code never contained it.
    """
    return scheme(
        [
            (CONDITIONAL, 1 + audio_weight + token_weight),
            (Inputs("positive", "zero", "adapter"), -audio_weight),
            (Inputs("positive", "window", "zero"), -token_weight),
        ]
    )


def none() -> Scheme:
    """One conditional pass, for weights that were distilled."""
    return {CONDITIONAL: 1.0}


def scheme_of(settings: RenderSettings) -> Scheme:
    """Return the table of passes that the settings ask for."""
    if isinstance(settings.guidance, tuple):
        return scheme([(Inputs(row.text, row.audio, row.tokens), row.weight) for row in settings.guidance])
    if settings.guidance == "cfg":
        return cfg(settings.audio_scale, settings.text_scale)
    if settings.guidance == "native":
        return native(settings.native_audio_weight, settings.native_token_weight)
    return none()


def active(guided: Scheme, sigma: float, interval: tuple[float, float] | None) -> Scheme:
    """Return the scheme at a noise level: outside the interval the conditional pass alone."""
    return guided if interval is None or interval[0] <= sigma <= interval[1] else none()


def combine(guided: Scheme, predictions: Mapping[Inputs, Tensor]) -> Tensor:
    """Return the weighted sum in float32, in the order of the table (a fixed order gives the same bits)."""
    terms = [weight * predictions[inputs].float() for inputs, weight in guided.items()]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
