"""Encode pictures and decode latents with the Wan VAE as streams, so that memory doesn't depend on length.

The causal cache belongs to the stream, not to the network: any number of streams may run interleaved on one VAE.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, patchify, unpatchify
from torch import Tensor, nn

from avatarctl.errors import UsageError
from avatarctl.networks.tiling import SPATIAL, Tiling, starts

TEMPORAL = 4  # pictures per latent frame, after the first, which is one picture
# Latent frames that a tile codes before the next one does: between tiles, their caches wait in main memory.
TOGETHER = 8


@dataclass(frozen=True)
class _Tile:
    """Rows and columns of a tile in latents."""

    top: int
    left: int
    height: int
    width: int


class _CausalStream:
    """One half of the VAE over successive chunks of one tile: its causal cache, and whether it has begun."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._cache: list[Any] = [None] * sum(isinstance(m, WanCausalConv3d) for m in network.modules())

    def rest(self) -> None:
        # Entries are tensors, nothing yet, or a mark of the first frame.
        self._cache = [entry.cpu() if isinstance(entry, Tensor) else entry for entry in self._cache]

    def bring(self, device: torch.device) -> None:
        """Bring back what rests."""
        self._cache = [entry.to(device) if isinstance(entry, Tensor) else entry for entry in self._cache]

    def push(self, chunk_BCTHW: Tensor, **first: bool) -> Tensor:
        return self._network(chunk_BCTHW, feat_cache=self._cache, feat_idx=[0], **first)


class DecodeStream:
    """Decodes latent frames one by one; two streams on one VAE don't disturb each other.

    Between pushes its causal cache (2 GiB at 512x512) may :meth:`rest` in main memory.
    """

    def __init__(self, vae: AutoencoderKLWan, tiling: Tiling | None = None) -> None:
        self._vae = vae
        self._tiling = tiling
        self._streams: dict[_Tile, _CausalStream] = {}
        self._size: tuple[int, ...] | None = None

    def push(self, latents_BC1HW: Tensor) -> Tensor:
        """Return the pictures (B, 3, t, 8 * H, 8 * W) in [-1, 1] of the next latent frame: t is 1 for the first, then 4.

        Computed where the VAE is at that moment and in its dtype. Raises ``UsageError`` for anything but one latent frame
        of the same size each time.
        """
        [pictures] = self._push([latents_BC1HW])
        return pictures

    def run(self, latents: Iterable[Tensor]) -> Iterator[Tensor]:
        """Return the pictures of each of the next latent frames in turn, as :meth:`push` does, to the bit.

        Tiles decode several latent frames before the next tile does, so that their caches seldom travel.
        """
        for group in _groups(latents, self._tiling):
            yield from self._push(group)

    @torch.no_grad()
    def _push(self, group: list[Tensor]) -> list[Tensor]:
        """Return the pictures of a few latent frames, decoded tile by tile."""
        frames, begins = [], self._size is None
        for latents_BC1HW in group:
            self._check(latents_BC1HW)
            frames.append(self._scaled(latents_BC1HW))
        tiles = _tiles(frames[0].shape[-2], frames[0].shape[-1], self._tiling)
        parts: list[list[Tensor]] = [[] for _ in frames]
        for tile in tiles:
            stream = self._stream(tile)
            stream.bring(frames[0].device)
            for index, frame in enumerate(frames):
                cut = self._vae.post_quant_conv(_cut(frame, tile, 1))
                part = stream.push(cut, first_chunk=begins and index == 0)
                if self._vae.config.patch_size is not None:
                    part = unpatchify(part, self._vae.config.patch_size)
                parts[index].append(part)
            if len(tiles) > 1 and frames[0].is_cuda:
                stream.rest()  # the device holds the cache of one tile at a time
        return [_blend(each, tiles, SPATIAL, self._tiling).clamp(-1, 1) for each in parts]

    def _check(self, latents_BC1HW: Tensor) -> None:
        channels = self._vae.config.z_dim
        if latents_BC1HW.ndim != 5 or latents_BC1HW.shape[2] != 1 or latents_BC1HW.shape[1] != channels:
            raise UsageError(
                f"decode: got latents of shape {tuple(latents_BC1HW.shape)}, expected one latent frame "
                f"(B, {channels}, 1, H, W)"
            )
        self._size = _same_size("decode", latents_BC1HW, self._size)

    def _scaled(self, latents_BC1HW: Tensor) -> Tensor:
        weight = self._vae.post_quant_conv.weight
        mean, std = _statistics(self._vae, weight.device)
        return (latents_BC1HW.to(weight.device, torch.float32) * std + mean).to(weight.dtype)

    def _stream(self, tile: _Tile) -> _CausalStream:
        if tile not in self._streams:
            self._streams[tile] = _CausalStream(self._vae.decoder)
        return self._streams[tile]

    def rest(self) -> None:
        """Send the causal cache to main memory; the next push brings back what it needs."""
        for stream in self._streams.values():
            stream.rest()


class EncodeStream:
    """Encodes pictures as they come: one first, then four at a time."""

    def __init__(self, vae: AutoencoderKLWan, tiling: Tiling | None = None) -> None:
        self._vae = vae
        self._tiling = tiling
        self._streams: dict[_Tile, _CausalStream] = {}
        self._size: tuple[int, ...] | None = None

    def push(self, pixels_BCTHW: Tensor) -> Tensor:
        """Return the posterior's moments (B, 2 * C, 1, H / 8, W / 8), mean then log-variance, not normalised.

        Raises ``UsageError`` unless the first chunk is one picture, each later one four of the same size.
        """
        [moments] = self._push([pixels_BCTHW])
        return moments

    def run(self, pixels: Iterable[Tensor]) -> Iterator[Tensor]:
        """Return the moments of each of the next chunks in turn, as :meth:`push` does; tiles as in ``DecodeStream.run``."""
        for group in _groups(pixels, self._tiling):
            yield from self._push(group)

    @torch.no_grad()
    def _push(self, group: list[Tensor]) -> list[Tensor]:
        weight, patch = self._vae.quant_conv.weight, self._vae.config.patch_size
        chunks = []
        for pixels_BCTHW in group:
            _check_pixels(pixels_BCTHW, 1 if self._size is None else TEMPORAL)
            self._size = _same_size("encode", pixels_BCTHW, self._size)
            chunks.append(patchify(pixels_BCTHW, patch) if patch is not None else pixels_BCTHW)
        scale = SPATIAL // (patch or 1)
        tiles = _tiles(chunks[0].shape[-2] // scale, chunks[0].shape[-1] // scale, self._tiling)
        parts: list[list[Tensor]] = [[] for _ in chunks]
        for tile in tiles:
            if tile not in self._streams:
                self._streams[tile] = _CausalStream(self._vae.encoder)
            stream = self._streams[tile]
            stream.bring(weight.device)
            for index, chunk in enumerate(chunks):
                cut = _cut(chunk, tile, scale).to(weight.device, weight.dtype)
                parts[index].append(self._vae.quant_conv(stream.push(cut)))
            if len(tiles) > 1 and weight.is_cuda:
                stream.rest()
        return [_blend(each, tiles, 1, self._tiling) for each in parts]


def decode_stream(
    vae: AutoencoderKLWan, latents: Iterable[Tensor], tiling: Tiling | None = None, skip: int = 0
) -> Iterator[Tensor]:
    """Return pictures (B, 3, t, H, W) in [-1, 1] latent frame by latent frame: t is 1 for the first, then 4.

    ``latents`` are normalised latent frames (B, C, 1, H, W). ``skip``: warm-up frames whose pictures are not given. To go on
    from latent frame ``k``, start at ``s = max(0, k - decoder_warmup(vae))`` and skip ``k - s``: the pictures equal those of
    an uninterrupted stream bit for bit (the single picture that a restart begins with is in the warm-up).
    """
    yield from islice(DecodeStream(vae, tiling).run(latents), skip, None)


def decode(vae: AutoencoderKLWan, latents_BCTHW: Tensor, tiling: Tiling | None = None) -> Tensor:
    """Decode normalised latents (B, C, T, H, W) to pictures (B, 3, 4 * (T - 1) + 1, 8 * H, 8 * W) in [-1, 1]."""
    return torch.cat(list(decode_stream(vae, latents_BCTHW.split(1, dim=2), tiling)), dim=2)


def encode_stream(vae: AutoencoderKLWan, pixels: Iterable[Tensor], tiling: Tiling | None = None) -> Iterator[Tensor]:
    """Return normalised latent frames (B, C, 1, H / 8, W / 8) of chunks of pictures: one picture first, then four each."""
    for moments in EncodeStream(vae, tiling).run(pixels):
        yield normalised_mean(vae, moments)


def normalised_mean(vae: AutoencoderKLWan, moments_BCTHW: Tensor) -> Tensor:
    """Return the mean of what :class:`EncodeStream` returns, with each channel's mean and deviation taken out."""
    return _normalise(vae, moments_BCTHW.chunk(2, dim=1)[0])


def encode(vae: AutoencoderKLWan, pixels_BCTHW: Tensor, tiling: Tiling | None = None) -> Tensor:
    """Encode pictures (B, 3, 4k + 1, H, W) in [-1, 1] to normalised latents (B, C, k + 1, H / 8, W / 8), in float32.

    The posterior's mode, with each channel's mean and deviation taken out.
    """
    return encode_moments(vae, pixels_BCTHW, tiling)[0]


def encode_moments(vae: AutoencoderKLWan, pixels_BCTHW: Tensor, tiling: Tiling | None = None) -> tuple[Tensor, Tensor]:
    """Return the normalised mode and the log-variance (as the network gives it, not normalised) of the posterior."""
    frames = pixels_BCTHW.shape[2] if pixels_BCTHW.ndim == 5 else 0
    if frames % TEMPORAL != 1:
        raise UsageError(f"encode: got {frames} pictures, expected {TEMPORAL}k + 1")
    _check_pixels(pixels_BCTHW, frames)
    stream = EncodeStream(vae, tiling)
    chunks = pixels_BCTHW.split([1] + [TEMPORAL] * (frames // TEMPORAL), dim=2)
    mean, log_variance = torch.cat([moments.float() for moments in stream.run(chunks)], dim=2).chunk(2, dim=1)
    return _normalise(vae, mean), log_variance


def decoder_warmup(vae: AutoencoderKLWan) -> int:
    """Count the latent frames a restarted decode must be fed before its pictures equal the uninterrupted ones.

    A causal convolution over three pictures spoils its first two, when what came before is missing; doubling the rate
    turns ``n`` spoilt frames into ``2n - 1`` (the first one is not doubled). Read off the decoder's layers.
    """
    decoder = vae.decoder
    spoilt = _lookback(decoder.conv_in) + _resnets_lookback(decoder.mid_block.resnets)
    for block in decoder.up_blocks:
        spoilt += _resnets_lookback(block.resnets)
        for upsampler in block.upsamplers or []:
            if upsampler.mode == "upsample3d":
                spoilt = 2 * (spoilt + _lookback(upsampler.time_conv)) - 1
    spoilt += _lookback(decoder.conv_out)
    return math.ceil((spoilt - 1) / TEMPORAL) + 1


def _lookback(convolution: WanCausalConv3d) -> int:
    return convolution.kernel_size[0] - 1


def _resnets_lookback(resnets: Iterable[nn.Module]) -> int:
    return sum(_lookback(resnet.conv1) + _lookback(resnet.conv2) for resnet in resnets)


def _statistics(vae: AutoencoderKLWan, device: torch.device) -> tuple[Tensor, Tensor]:
    mean, std = (torch.tensor(values, device=device) for values in (vae.config.latents_mean, vae.config.latents_std))
    return mean.view(1, -1, 1, 1, 1), std.view(1, -1, 1, 1, 1)


def _normalise(vae: AutoencoderKLWan, mean_BCTHW: Tensor) -> Tensor:
    mean, std = _statistics(vae, mean_BCTHW.device)
    return (mean_BCTHW.float() - mean) / std


def _same_size(what: str, chunk_BCTHW: Tensor, before: tuple[int, ...] | None) -> tuple[int, ...]:
    """Return batch, rows and columns, the same throughout a stream: another size would find no cache and start anew."""
    batch, _, _, rows, columns = chunk_BCTHW.shape
    if before not in (None, (batch, rows, columns)):
        raise UsageError(
            f"{what}: got a batch of {batch} with {rows} x {columns} in a stream of (batch, rows, columns) {before}, "
            "expected the same"
        )
    return batch, rows, columns


def _check_pixels(pixels: Tensor, frames: int) -> None:
    shape = tuple(pixels.shape)
    if len(shape) != 5 or shape[1] != 3 or shape[2] != frames or shape[3] % SPATIAL or shape[4] % SPATIAL:
        raise UsageError(
            f"encode: got pictures of shape {shape}, expected (B, 3, {frames}, H, W) with H and W divisible by {SPATIAL}"
        )


# -- Tiles ----------------------------------------------------------------------------------------------------------


def _groups(items: Iterable[Tensor], tiling: Tiling | None) -> Iterator[list[Tensor]]:
    """Return the items a few at a time where there are tiles, else one by one."""
    iterator = iter(items)
    while group := list(islice(iterator, 1 if tiling is None else TOGETHER)):
        yield group


def _tiles(height: int, width: int, tiling: Tiling | None) -> list[_Tile]:
    """Cover ``height`` x ``width`` latents with tiles of one size."""
    if tiling is None:
        return [_Tile(0, 0, height, width)]
    tall, wide, overlap = (px // SPATIAL for px in (tiling.size_px, tiling.columns_px, tiling.overlap_px))
    rows, columns = starts(height, tall, overlap), starts(width, wide, overlap)
    return [_Tile(top, left, min(tall, height), min(wide, width)) for top in rows for left in columns]


def _cut(values: Tensor, tile: _Tile, scale: int) -> Tensor:
    rows = slice(tile.top * scale, (tile.top + tile.height) * scale)
    columns = slice(tile.left * scale, (tile.left + tile.width) * scale)
    return values[..., rows, columns].contiguous()


def _blend(parts: list[Tensor], tiles: list[_Tile], scale: int, tiling: Tiling | None) -> Tensor:
    """Join tiles: each falls off linearly over the overlap at its edges, and the weights of a pixel add up to one."""
    if len(parts) == 1 or tiling is None:
        return parts[0]
    height = max(tile.top + tile.height for tile in tiles) * scale
    width = max(tile.left + tile.width for tile in tiles) * scale
    ramp = tiling.overlap_px // SPATIAL * scale
    whole = parts[0].new_zeros(*parts[0].shape[:-2], height, width, dtype=torch.float32)
    total = whole.new_zeros(height, width)
    for part, tile in zip(parts, tiles, strict=True):
        weight = _falloff(part.shape[-2], ramp)[:, None] * _falloff(part.shape[-1], ramp)[None]
        weight = weight.to(whole.device)
        rows = slice(tile.top * scale, tile.top * scale + part.shape[-2])
        columns = slice(tile.left * scale, tile.left * scale + part.shape[-1])
        whole[..., rows, columns] += part.float() * weight
        total[rows, columns] += weight
    return (whole / total).to(parts[0].dtype)


def _falloff(length: int, ramp: int) -> Tensor:
    places = torch.arange(length, dtype=torch.float32)
    return torch.minimum(places + 1, length - places).clamp(max=ramp + 1) / (ramp + 1)
