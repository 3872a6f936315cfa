"""Count the operations of one pass from the sizes of the transformer and of its inputs; nothing is run."""

from __future__ import annotations

from avatarctl.networks import flops
from avatarctl.networks.dims import TransformerDims


def flops_per_pass(
    dims: TransformerDims,
    tokens: int,
    text_tokens: int,
    image_tokens: int,
    audio_states: int,
    window: int = 21,
) -> float:
    """Count the operations of one pass that hears, with the audio adapter."""
    return flops.of_pass(dims, tokens, text_tokens, image_tokens, audio_states, window).total
