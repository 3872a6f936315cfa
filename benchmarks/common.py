"""Count the operations of one pass from the sizes of the transformer and of its inputs; nothing is run."""

from __future__ import annotations

from avatarctl.networks.audio_adapter import frame_spans
from avatarctl.networks.dims import TransformerDims


def flops_per_pass(
    dims: TransformerDims,
    tokens: int,
    text_tokens: int,
    image_tokens: int,
    audio_states: int,
    window: int = 21,
) -> int:
    """Count the operations of one pass: twice the multiply-adds of matrix products and attention (norms and the like left out).

    ``tokens`` of a window of ``window`` latent frames; ``text_tokens`` as padded; ``audio_states`` of wav2vec 2.0, from which
    the adapter cuts equally many audio tokens for each latent frame. Per block: self-attention (four projections, two
    products with L x L), cross-attention (two projections of the tokens; text, image and audio keys and values; attention to
    them), feed-forward. Adapter and embedders come once.
    """
    d = dims.dim
    start, stop = frame_spans(audio_states, window)[0]
    heard = stop - start + 1  # audio tokens per latent frame
    audio = window * heard
    projections = 6 * tokens * d * d + 2 * (text_tokens + image_tokens + audio) * d * d
    attention = 2 * tokens * tokens * d + 2 * tokens * (text_tokens + image_tokens + heard) * d
    block = projections + attention + 2 * tokens * d * dims.ffn
    hidden = dims.vocal_hidden
    adapter = audio_states * (dims.w2v * hidden + hidden * d if hidden else dims.w2v * d) + audio * d * d
    # Two blocks: queries and output, keys and values of the latents, attention within a latent frame, feed-forward.
    adapter += 2 * (2 * audio * d * d + 2 * tokens * d * d + 2 * heard * tokens * d + 4 * audio * d * d)
    patch = dims.patch[0] * dims.patch[1] * dims.patch[2]
    embed = tokens * d * (dims.in_dim + dims.out_dim) * patch + text_tokens * (dims.text * d + d * d)
    embed += image_tokens * (dims.clip * dims.clip + dims.clip * d) + dims.freq_dim * d + 7 * d * d
    return 2 * (dims.layers * block + adapter + embed)
