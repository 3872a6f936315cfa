"""Calculate the bytes that a render needs on the device from sizes and placement, and the memory mode that fits; no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from avatarctl.networks.dims import WAN_VAE, TransformerDims
from avatarctl.networks.tiling import Tiling, small_tiling, tilings

# Parameters of the released networks beside the transformer, counted from their names and shapes.
PARAMETERS = {
    "vae": 126_892_531,
    "text encoder": 5_680_910_336,
    "image encoder": 630_766_080,
    "speech encoder": 94_370_944,
}
# Live bytes per output pixel of one latent frame in the decoder, per unit of its base width, by the bytes of its values:
# counted at every operation (float32: widths 8 to 96, tests/networks/test_memory.py; bfloat16: full width on a pretended
# device, tests/pretended). Workspace of convolutions comes on top.
DECODER_BYTES_PER_PIXEL = {4: 204.8, 2: 106.0}
ENCODER_BYTES_PER_PIXEL = {4: 148.0, 2: 79.0}
TEXT_BLOCK = 193_000_000  # weights of a block of umT5, which is on the device alone
# What a calculation leaves out: workspace of convolutions and products, and what the allocator can't use. An assumption.
MARGIN_BYTES, MARGIN_SHARE = 256 << 20, 0.05
MODES = ("full", "model", "group", "sequential")  # from fast to frugal
Mode = Literal["auto", "full", "model", "group", "sequential"]
CUDA_CONTEXT_BYTES = 600 << 20
IMAGE_TOKENS = 257


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on the device: ``weights`` that stay, ``activations`` of one pass, ``decoding`` by the VAE, and their ``peak``.

    ``sampling``, ``decode``, ``conditions``: the peak of each stage. ``together``: the peak where pictures are decoded beside
    sampling (memory mode full alone).
    """

    weights: int
    activations: int
    decoding: int
    peak: int
    sampling: int = 0
    decode: int = 0
    conditions: int = 0
    together: int = 0

    @property
    def needed(self) -> int:
        """The peak with a margin for what isn't counted."""
        return with_margin(self.peak)


def with_margin(size: int) -> int:
    """Return bytes with a margin for what isn't counted."""
    return round(size * (1 + MARGIN_SHARE)) + MARGIN_BYTES


@dataclass(frozen=True)
class Workload:
    """What of a render its memory depends on: sizes of networks and pictures, and ``passes`` of the transformer in all."""

    dims: TransformerDims
    width: int
    height: int
    window: int = 21
    batch: int = 1
    vae: int = PARAMETERS["vae"]
    speech: int = PARAMETERS["speech encoder"]
    image: int = PARAMETERS["image encoder"]
    decoder_width: int = WAN_VAE.base_dim
    passes: int = 0
    text_block: int = TEXT_BLOCK


@dataclass(frozen=True)
class Formats:
    """Bytes of a value in the transformer and in the VAE, and whether the transformer's layers are stored in float8."""

    value_bytes: int = 2
    vae_bytes: int = 2
    float8: bool = False


@dataclass(frozen=True)
class Fit:
    """A memory mode and tiles of the VAE with what they need, and whether that fits ``free_bytes``."""

    memory: str
    tiling: Tiling | None
    estimate: MemoryEstimate
    free_bytes: int

    @property
    def fits(self) -> bool:
        """Whether the peak, with its margin, fits."""
        return self.estimate.needed <= self.free_bytes

    @property
    def beside(self) -> bool:
        """Whether pictures may be decoded beside sampling."""
        return self.memory == "full" and with_margin(self.estimate.together) <= self.free_bytes


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
    tiling: Tiling | None = None,
    vae: int = PARAMETERS["vae"],
    speech: int = PARAMETERS["speech encoder"],
    decoder_width: int = WAN_VAE.base_dim,
    vae_bytes: int = 4,
    batch: int = 1,
    image: int = PARAMETERS["image encoder"],
    text_block: int = TEXT_BLOCK,
) -> MemoryEstimate:
    """Estimate the device memory of a render: weights that stay in this memory mode, one pass, decoding, and the peak.

    ``value_bytes`` 4 for float32, 2 for half precision; ``float8``: linear layers in one byte per weight. ``tiling``: the
    VAE's tiles, None for whole pictures; ``vae_bytes``: of its values. ``vae``, ``speech``, ``image``: parameters of these
    networks, ``text_block``: of a block of the text encoder, ``decoder_width``: base width of the VAE. ``batch``: windows in a
    pass. Conditions are made before the transformer is loaded; text and image encoders are gone before the first pass. A
    calculation; what it rests on is counted (small models, and the full size on a pretended device: tests/pretended), nothing
    is measured on a GPU.
    """
    transformer = transformer_bytes(dims, value_bytes, float8)
    block = block_bytes(dims, value_bytes, float8)
    activations = pass_bytes(dims, batch * latent_tokens(dims, width, height, window), value_bytes)
    pixels = width * height if tiling is None else tiling.pixels(width, height)
    decoding = round(DECODER_BYTES_PER_PIXEL[vae_bytes] * decoder_width * pixels)
    encoding = round(ENCODER_BYTES_PER_PIXEL[vae_bytes] * decoder_width * pixels)
    if tiling is not None:  # the tiles of eight latent frames wait to be joined
        decoding += round(8 * 4 * 3 * width * height * tiling.work(width, height) * vae_bytes)
    context = 2 * context_bytes(dims, value_bytes)
    vae_weights, speech_weights = vae_bytes * vae, 4 * speech
    beside = text_block * value_bytes
    if memory == "full":
        stay = transformer + context + vae_weights + speech_weights
        sampling, decode = stay + activations, stay + decoding
        beside = max(beside, image * value_bytes, encoding) + vae_weights
    elif memory == "model":
        stay = context + speech_weights
        sampling, decode = stay + transformer + activations, stay + vae_weights + decoding
        beside = max(beside, image * value_bytes, vae_weights + encoding)
    elif memory == "group":
        # One block computes while the next one arrives; after a pass the first one is there again.
        stay = transformer - dims.layers * block + block
        sampling, decode = stay + block + activations, stay + vae_weights + decoding
        beside = max(beside, vae_weights + encoding)
    else:
        stay = dims.layers * 16 * dims.dim * 4
        layer = dims.dim * dims.ffn * (1 if float8 else value_bytes)
        sampling, decode = stay + layer + activations, stay + vae_weights + decoding
        beside = max(beside, vae_weights + encoding)
    own = CUDA_CONTEXT_BYTES if on_gpu else 0
    peak = max(sampling, decode, beside) + own
    together = stay + activations + decoding + own if memory == "full" else peak
    return MemoryEstimate(stay, activations, decoding, peak, sampling + own, decode + own, beside + own, together)


def estimate_of(work: Workload, formats: Formats, memory: str, tiling: Tiling | None) -> MemoryEstimate:
    """Estimate the memory of a workload on a device, without CUDA's own context."""
    return estimate(
        work.dims,
        work.width,
        work.height,
        work.window,
        memory,
        formats.value_bytes,
        formats.float8,
        on_gpu=False,
        tiling=tiling,
        vae=work.vae,
        speech=work.speech,
        decoder_width=work.decoder_width,
        vae_bytes=formats.vae_bytes,
        batch=work.batch,
        image=work.image,
        text_block=work.text_block,
    )


def ladder(
    width: int, height: int, memory: Mode = "auto", tiles: bool | Literal["auto"] | Tiling = "auto"
) -> Iterator[tuple[str, Tiling | None]]:
    """Return memory modes and tiles from fast to frugal, as far as the settings leave a choice.

    Modes without loss come first. Where whole pictures fit none of them, the VAE's tiles are as few as can be; single layers
    come last, since they cost more time than tiles.
    """
    modes = MODES if memory == "auto" else (memory,)
    if isinstance(tiles, bool) or tiles != "auto":
        fixed = tiles if isinstance(tiles, Tiling) else small_tiling(width, height) if tiles else None
        yield from ((mode, fixed) for mode in modes)
        return
    yield from ((mode, None) for mode in modes if mode != "sequential" or memory != "auto")
    for mode in modes:
        much = 1.5 if mode != modes[-1] else float("inf")  # times the work of whole pictures
        yield from ((mode, tiling) for tiling in tilings(width, height) if tiling.work(width, height) <= much)
    if not tilings(width, height):
        yield modes[-1], None


def choose(
    work: Workload,
    formats: Formats,
    free_bytes: int,
    memory: Mode = "auto",
    tiles: bool | Literal["auto"] | Tiling = "auto",
) -> Fit:
    """Return the fastest memory mode and the fewest tiles that fit ``free_bytes``; the most frugal ones if none does."""
    last: Fit | None = None
    for mode, tiling in ladder(work.width, work.height, memory, tiles):
        last = Fit(mode, tiling, estimate_of(work, formats, mode, tiling), free_bytes)
        if last.fits:
            break
    assert last is not None, "there is one mode at least"
    return last
