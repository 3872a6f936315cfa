"""Count the operations of a pass, of decoding and of encoding from the sizes of the networks; nothing is run, no torch.

Operations are twice the multiply-adds of matrix products, attention and convolutions; norms and the like are counted as the
bytes that they move.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from avatarctl.networks.dims import TransformerDims, VaeDims
from avatarctl.networks.spans import frame_spans
from avatarctl.networks.tiling import SPATIAL, Tiling

# Bytes that what is no product moves in a block, per token and unit of its width: counted at full width in bfloat16, not
# compiled (12.8 GB at 512x512, 19.5 GB at 480x832).
BLOCK_BYTES = 388
COMPILED = 1 / 3  # of them, when blocks are compiled: an assumption
# Kernels of a block and of a convolution, for networks that are too small to fill a device.
BLOCK_CALLS = 150
LAYER_CALLS = 8
CONVOLUTION_MOVES = 6  # times that the input and output of a convolution are read or written around it: an assumption


@dataclass(frozen=True)
class Operations:
    """Operations of a piece of work by their kind, bytes moved beside them, and calls of kernels."""

    products: float = 0
    attention: float = 0
    convolutions: float = 0
    moved: float = 0
    calls: float = 0

    @property
    def total(self) -> float:
        """All operations."""
        return self.products + self.attention + self.convolutions

    def __add__(self, other: Operations) -> Operations:
        return Operations(
            self.products + other.products,
            self.attention + other.attention,
            self.convolutions + other.convolutions,
            self.moved + other.moved,
            self.calls + other.calls,
        )

    def times(self, count: float) -> Operations:
        """Return so many times these operations."""
        return Operations(
            count * self.products,
            count * self.attention,
            count * self.convolutions,
            count * self.moved,
            count * self.calls,
        )


def of_pass(
    dims: TransformerDims,
    tokens: int,
    text_tokens: int,
    image_tokens: int,
    audio_states: int,
    window: int = 21,
    hears: bool = True,
    adapts: bool = True,
    compiled: bool = False,
) -> Operations:
    """Count the operations of one pass.

    ``tokens`` of a window of ``window`` latent frames; ``text_tokens`` as padded; ``audio_states`` of wav2vec 2.0, from which
    the adapter cuts equally many audio tokens for each latent frame. Per block: self-attention (four projections, two
    products with L x L), cross-attention (two projections of the tokens; text, image and audio keys and values; attention to
    them), feed-forward. Embedders come once, the adapter in passes that ``adapts``; audio in those that ``hears``.
    """
    d = dims.dim
    start, stop = frame_spans(audio_states, window)[0]
    heard = stop - start + 1  # audio tokens per latent frame
    audio = window * heard
    spoken = audio if hears else 0
    projections = 6 * tokens * d * d + 2 * (text_tokens + image_tokens + spoken) * d * d
    attention = 2 * tokens * tokens * d + 2 * tokens * (text_tokens + image_tokens + (heard if hears else 0)) * d
    patch = dims.patch[0] * dims.patch[1] * dims.patch[2]
    embed = tokens * d * (dims.in_dim + dims.out_dim) * patch + text_tokens * (dims.text * d + d * d)
    embed += image_tokens * (dims.clip * dims.clip + dims.clip * d) + dims.freq_dim * d + 7 * d * d
    products, attended = dims.layers * (projections + 2 * tokens * d * dims.ffn) + embed, dims.layers * attention
    calls = dims.layers * BLOCK_CALLS
    if adapts:
        hidden = dims.vocal_hidden
        products += audio_states * (dims.w2v * hidden + hidden * d if hidden else dims.w2v * d) + audio * d * d
        # Two blocks: queries and output, keys and values of the latents, attention within a latent frame, feed-forward.
        products += 2 * (2 * audio * d * d + 2 * tokens * d * d + 4 * audio * d * d)
        attended += 2 * 2 * heard * tokens * d
        calls += 2 * BLOCK_CALLS
    moved = dims.layers * tokens * d * BLOCK_BYTES * (COMPILED if compiled else 1)
    return Operations(2 * products, 2 * attended, 0, moved, calls)


def of_decoding(
    dims: VaeDims, width: int, height: int, tiling: Tiling | None = None, value_bytes: int = 4
) -> Operations:
    """Count the operations of decoding one latent frame (four pictures), after the first."""
    times = 1.0 if tiling is None else tiling.work(width, height)
    return _summed(_decoder(dims, height // SPATIAL, width // SPATIAL), value_bytes).times(times)


def of_encoding(
    dims: VaeDims, width: int, height: int, tiling: Tiling | None = None, value_bytes: int = 4
) -> Operations:
    """Count the operations of encoding four pictures to one latent frame, after the first."""
    times = 1.0 if tiling is None else tiling.work(width, height)
    folded = dims.patch_size or 1
    return _summed(_encoder(dims, height // folded, width // folded), value_bytes).times(times)


class _Layer(NamedTuple):
    """A convolution: channels in and out, taps of its kernel, values of a channel of its output; or attention of frames."""

    inputs: int
    outputs: int
    taps: int
    places: int
    attended: int = 0


def _summed(layers: Iterator[_Layer], value_bytes: int) -> Operations:
    convolutions = attention = moved = calls = 0
    for layer in layers:
        convolutions += 2 * layer.inputs * layer.outputs * layer.taps * layer.places
        attention += layer.attended
        moved += CONVOLUTION_MOVES * (layer.inputs + layer.outputs) // 2 * layer.places * value_bytes
        calls += LAYER_CALLS
    return Operations(0, attention, convolutions, moved, calls)


def _residual(inputs: int, outputs: int, places: int) -> Iterator[_Layer]:
    yield _Layer(inputs, outputs, 27, places)
    yield _Layer(outputs, outputs, 27, places)
    if inputs != outputs:
        yield _Layer(inputs, outputs, 1, places)


def _middle(width: int, rows: int, columns: int, frames: int) -> Iterator[_Layer]:
    places = rows * columns * frames
    yield from _residual(width, width, places)
    yield _Layer(width, 3 * width, 1, places)
    yield _Layer(width, width, 1, places, attended=4 * places * rows * columns * width)
    yield from _residual(width, width, places)


def _decoder(dims: VaeDims, rows: int, columns: int) -> Iterator[_Layer]:
    widths = [dims.base_dim * times for times in (dims.dim_mult[-1], *dims.dim_mult[::-1])]
    frames = 1
    yield _Layer(dims.z_dim, dims.z_dim, 1, rows * columns)
    yield _Layer(dims.z_dim, widths[0], 27, rows * columns)
    yield from _middle(widths[0], rows, columns, frames)
    for level, doubles in enumerate([*dims.temporal_downsample[::-1], None]):
        inputs, outputs = widths[level] // (2 if level else 1), widths[level + 1]
        for index in range(dims.num_res_blocks + 1):
            yield from _residual(inputs if index == 0 else outputs, outputs, frames * rows * columns)
        if doubles is None:
            break
        if doubles:
            yield _Layer(outputs, 2 * outputs, 3, frames * rows * columns)
            frames *= 2
        rows, columns = 2 * rows, 2 * columns
        yield _Layer(outputs, outputs // 2, 9, frames * rows * columns)
    yield _Layer(widths[-1], dims.channels, 27, frames * rows * columns)


def _encoder(dims: VaeDims, rows: int, columns: int) -> Iterator[_Layer]:
    widths = [dims.base_dim * times for times in (1, *dims.dim_mult)]
    frames = 4
    yield _Layer(dims.channels, widths[0], 27, frames * rows * columns)
    for level, halves in enumerate([*dims.temporal_downsample, None]):
        for index in range(dims.num_res_blocks):
            inputs = widths[level] if index == 0 else widths[level + 1]
            yield from _residual(inputs, widths[level + 1], frames * rows * columns)
        if halves is None:
            break
        rows, columns = rows // 2, columns // 2
        yield _Layer(widths[level + 1], widths[level + 1], 9, frames * rows * columns)
        if halves:
            frames //= 2
            yield _Layer(widths[level + 1], widths[level + 1], 3, frames * rows * columns)
    yield from _middle(widths[-1], rows, columns, frames)
    yield _Layer(widths[-1], 2 * dims.z_dim, 27, frames * rows * columns)
    yield _Layer(2 * dims.z_dim, 2 * dims.z_dim, 1, frames * rows * columns)
