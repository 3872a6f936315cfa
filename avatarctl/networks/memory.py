"""Calculate the bytes that a render needs on the device from sizes and placement; no torch."""

from __future__ import annotations

from dataclasses import dataclass

from avatarctl.networks.dims import WAN_VAE, TransformerDims

# Parameters of the released networks beside the transformer, counted from their names and shapes.
PARAMETERS = {
    "vae": 126_892_531,
    "text encoder": 5_680_910_336,
    "image encoder": 630_766_080,
    "speech encoder": 94_370_944,
}
# Live float32 values per output pixel of one latent frame in the decoder, per unit of its base width: counted at every
# operation for widths 8 to 96 (51.2 to 52.6; tests/networks/test_memory.py). Workspace of convolutions comes on top.
DECODER_VALUES_PER_PIXEL = 51.2
CUDA_CONTEXT_BYTES = 600 << 20
IMAGE_TOKENS = 257


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on the device: ``weights`` that stay, ``activations`` of one pass, ``decoding`` by the VAE, and their ``peak``."""

    weights: int
    activations: int
    decoding: int
    peak: int


def transformer_parameters(dims: TransformerDims) -> int:
    """Count the transformer's parameters from its sizes alone."""
    d, f, adapter = dims.dim, dims.ffn, dims.vocal_hidden
    linear = d * d + d
    block = 12 * linear + 2 * d * f + f + d + 5 * d + 2 * d + 6 * d
    patch = dims.patch[0] * dims.patch[1] * dims.patch[2]
    speech = dims.w2v * (adapter or d) + 2 * (adapter or d) + (adapter * d + 2 * d if adapter else 0)
    adapter_block = 4 * linear + 2 * d + 2 * d + 4 * d * d + 3 * d + 6 * d
    embedders = (
        dims.in_dim * patch * d + d
        + dims.text * d + d + linear
        + dims.freq_dim * d + d + linear + 6 * linear
        + 2 * dims.clip + dims.clip * dims.clip + dims.clip + dims.clip * d + d + 2 * d
    )  # fmt: skip
    head = d * dims.out_dim * patch + dims.out_dim * patch + 2 * d
    return dims.layers * block + speech + 2 * adapter_block + linear + 2 * d + embedders + head


def latent_tokens(dims: TransformerDims, width: int, height: int, window: int) -> int:
    """Count the tokens of a window of ``window`` latent frames at ``width`` x ``height`` pixels."""
    return window // dims.patch[0] * (height // (8 * dims.patch[1])) * (width // (8 * dims.patch[2]))


def pass_bytes(dims: TransformerDims, tokens: int, value_bytes: int) -> int:
    """Bytes of one pass without gradients, by its widest moments.

    In the feed-forward: residual, its float32 copy and modulated norm, and the hidden layer before and after the
    activation. In self-attention: residual and norm, query, key, value, their rotated copies in float32, and the output.
    """
    d = dims.dim
    rotary = 2 * (d // dims.heads) * 4
    feed_forward = d * (value_bytes + 4 + 4 + value_bytes) + 2 * dims.ffn * value_bytes
    attention = d * (value_bytes + 4 + 4 * value_bytes + 2 * 4 + value_bytes)
    return tokens * (max(feed_forward, attention) + rotary)


def transformer_bytes(dims: TransformerDims, value_bytes: int, float8: bool = False) -> int:
    """Bytes of the transformer's weights as they are stored: what is kept in float32, and one byte per linear weight."""
    total = transformer_parameters(dims) * value_bytes
    if value_bytes < 4:  # time embedding and modulation stay wide
        d = dims.dim
        total += (4 - value_bytes) * (dims.freq_dim * d + d + 7 * (d * d + d) + dims.layers * 6 * d)
    if float8:
        total -= (value_bytes - 1) * (dims.layers * _linear_weights(dims) + _adapter_weights(dims))
    return total


def block_bytes(dims: TransformerDims, value_bytes: int, float8: bool = False) -> int:
    """Bytes of one block."""
    return _linear_weights(dims) * (1 if float8 else value_bytes) + 16 * dims.dim * 4


def context_bytes(dims: TransformerDims, value_bytes: int) -> int:
    """Bytes of one text's keys and values in every block, which stay on the device where the blocks do."""
    return 2 * dims.layers * (dims.text_len + IMAGE_TOKENS) * dims.dim * value_bytes


def _linear_weights(dims: TransformerDims) -> int:
    """Count the weights of a block's linear layers."""
    return 12 * dims.dim * dims.dim + 2 * dims.dim * dims.ffn


def _adapter_weights(dims: TransformerDims) -> int:
    d, adapter = dims.dim, dims.vocal_hidden
    return 2 * 8 * d * d + dims.w2v * (adapter or d) + (adapter * d if adapter else 0) + d * d


def estimate(
    dims: TransformerDims,
    width: int,
    height: int,
    window: int = 21,
    memory: str = "full",
    value_bytes: int = 2,
    float8: bool = False,
    on_gpu: bool = True,
    tile_px: int | None = None,
    vae: int = PARAMETERS["vae"],
    speech: int = PARAMETERS["speech encoder"],
    decoder_width: int = WAN_VAE.base_dim,
) -> MemoryEstimate:
    """Estimate the device memory of a render: weights that stay in this memory mode, one pass, decoding, and the peak.

    ``value_bytes`` 4 for float32, 2 for half precision; ``float8``: linear layers in one byte per weight. ``tile_px``: side of
    the VAE's tiles, None for whole pictures. ``vae``, ``speech``: parameters of these networks, ``decoder_width``: base width
    of the VAE. Text and image encoders are gone before the first pass. A calculation; what it rests on is counted (small
    models, and the full size on a pretended device: tests/pretended), nothing is measured on a GPU.
    """
    transformer = transformer_bytes(dims, value_bytes, float8)
    block = block_bytes(dims, value_bytes, float8)
    activations = pass_bytes(dims, latent_tokens(dims, width, height, window), value_bytes)
    pixels = min(width, tile_px or width) * min(height, tile_px or height)
    decoding = round(DECODER_VALUES_PER_PIXEL * decoder_width * 4 * pixels)
    context = 2 * context_bytes(dims, value_bytes)
    if memory == "full":
        stay = transformer + context + 4 * (vae + speech)
        peak = stay + max(activations, decoding)
    elif memory == "model":
        stay = context + 4 * speech
        peak = stay + max(transformer + activations, 4 * vae + decoding)
    elif memory == "group":
        # One block computes while the next one arrives; after a pass the first one is there again.
        stay = transformer - dims.layers * block + block
        peak = stay + max(block + activations, 4 * vae + decoding)
    else:
        stay = dims.layers * 16 * dims.dim * 4
        peak = stay + max(dims.dim * dims.ffn * (1 if float8 else value_bytes) + activations, 4 * vae + decoding)
    return MemoryEstimate(stay, activations, decoding, peak + (CUDA_CONTEXT_BYTES if on_gpu else 0))
