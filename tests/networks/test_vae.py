"""Tests with tiny Wan VAEs: streams equal whole decodes, restart exactly, and need no more memory for longer videos."""

from __future__ import annotations

from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from live import LiveBytes
from tiny import tiny_vae

from avatarctl.errors import UsageError
from avatarctl.networks.dims import WAN_VAE
from avatarctl.networks.kinds import build_vae
from avatarctl.networks.vae import (
    DecodeStream,
    EncodeStream,
    Tiling,
    _blend,
    _cut,
    _tiles,
    decode,
    decode_stream,
    decoder_warmup,
    encode,
    encode_moments,
    encode_stream,
)

CHANNELS = 16


def latents(frames: int, rows: int = 4, columns: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.randn(1, CHANNELS, frames, rows, columns, generator=torch.Generator().manual_seed(seed))


def pictures(frames: int, height: int = 32, width: int = 32) -> torch.Tensor:
    return torch.rand(1, 3, frames, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture(scope="module", params=["wan", "puppet"])
def vae(request: pytest.FixtureRequest) -> torch.nn.Module:
    """The released layout, and the three-level one that folds pixels into channels."""
    return tiny_vae(folded=request.param == "puppet")


def denormalised(vae: torch.nn.Module, z: torch.Tensor) -> torch.Tensor:
    mean, std = torch.tensor(vae.config.latents_mean), torch.tensor(vae.config.latents_std)
    return z * std.view(1, -1, 1, 1, 1) + mean.view(1, -1, 1, 1, 1)


@torch.no_grad()
def test_equal_to_the_network_s_own_decode_and_encode(vae: torch.nn.Module) -> None:
    z, x = latents(5), pictures(9)
    assert torch.equal(decode(vae, z), vae.decode(denormalised(vae, z)).sample)
    mode, log_variance = encode_moments(vae, x)
    theirs = vae.encode(x).latent_dist
    assert torch.allclose(denormalised(vae, mode), theirs.mean, atol=1e-5)
    assert torch.equal(log_variance.clamp(-30, 20), theirs.logvar)
    assert torch.equal(encode(vae, x), mode)


@pytest.mark.parametrize("tiling", [None, Tiling(32, 16)])
def test_stream_equals_decoding_at_once(vae: torch.nn.Module, tiling: Tiling | None) -> None:
    z = latents(4, 6, 5)
    parts = list(decode_stream(vae, z.split(1, dim=2), tiling))
    assert [part.shape[2] for part in parts] == [1, 4, 4, 4]
    assert torch.equal(torch.cat(parts, dim=2), decode(vae, z, tiling))


def test_encode_stream_equals_encoding_at_once(vae: torch.nn.Module) -> None:
    x = pictures(9)
    assert torch.equal(torch.cat(list(encode_stream(vae, x.split([1, 4, 4], dim=2))), dim=2), encode(vae, x))


def test_a_stream_may_rest_between_pushes(vae: torch.nn.Module) -> None:
    z = latents(4)
    stream = DecodeStream(vae)
    parts = []
    for frame in z.split(1, dim=2):
        parts.append(stream.push(frame))
        stream.rest()
    assert torch.equal(torch.cat(parts, dim=2), decode(vae, z))


def test_streams_run_interleaved(vae: torch.nn.Module) -> None:
    one, two = latents(3, seed=1), latents(3, seed=2)
    pairs = zip(decode_stream(vae, one.split(1, 2)), decode_stream(vae, two.split(1, 2)), strict=True)
    left, right = zip(*pairs, strict=True)
    assert torch.equal(torch.cat(left, 2), decode(vae, one))
    assert torch.equal(torch.cat(right, 2), decode(vae, two))


def test_restart_after_warm_up_is_exact_and_no_shorter_one_is(vae: torch.nn.Module) -> None:
    warmup = decoder_warmup(vae)
    z = latents(warmup + 6, 2, 2)
    whole = list(decode_stream(vae, z.split(1, dim=2)))
    for cut in (3, warmup, warmup + 1, warmup + 4):
        start = max(0, cut - warmup)
        again = list(decode_stream(vae, z[:, :, start:].split(1, dim=2), skip=cut - start))
        assert all(torch.equal(a, b) for a, b in zip(again, whole[cut:], strict=True))
    short = decode_stream(vae, z[:, :, warmup - warmup // 2 :].split(1, dim=2), skip=warmup // 2)
    assert not torch.equal(next(short), whole[warmup])


def test_warm_up_of_the_released_layout() -> None:
    assert decoder_warmup(tiny_vae()) == 38


@pytest.mark.long
def test_memory_does_not_grow() -> None:
    """Counted by :class:`live.LiveBytes`: every storage that an operation gives counts from then until it is collected.

    That is exact and alike on every machine, where a process's resident memory depends on its allocator. The counted peak
    is the same for 8 and for 800 latent frames (and grows, when a caller keeps the pictures).
    """
    vae = build_vae(
        WAN_VAE.with_(
            base_dim=8,
            dim_mult=(1, 1, 1),
            num_res_blocks=1,
            temporal_downsample=(True, True),
            patch_size=2,
            channels=12,
        )
    ).requires_grad_(False)

    def peak(frames: int, keep: bool = False) -> int:
        source = (torch.randn(1, CHANNELS, 1, 4, 4) for _ in range(frames))
        kept = []
        with LiveBytes(vae) as live:
            for pixels in decode_stream(vae, source):
                kept.append(pixels if keep else None)
        assert len(kept) == frames
        return live.peak

    assert peak(800) == pytest.approx(peak(8), rel=0.02)
    assert peak(80, keep=True) > 1.5 * peak(8)


def test_encoding_a_stream_needs_no_more_memory_for_more_pictures() -> None:
    vae = tiny_vae(folded=True)

    def peak(frames: int) -> int:
        chunks = chain([pictures(1)], (pictures(4) for _ in range(frames - 1)))
        with LiveBytes(vae) as live:
            assert sum(1 for _ in encode_stream(vae, chunks)) == frames
        return live.peak

    assert peak(60) == pytest.approx(peak(6), rel=0.02)


def test_computes_where_the_vae_is_at_the_moment() -> None:
    """Between windows the VAE may leave the device and come back. Meta tensors mix with no others, as a GPU's don't."""
    vae = tiny_vae()
    stream = DecodeStream(vae, Tiling(32, 16))
    vae.to("meta")
    assert stream.push(latents(1, 6, 6)).device.type == "meta"
    assert stream.push(latents(1, 6, 6)).shape == (1, 3, 4, 48, 48)
    mode, log_variance = encode_moments(vae, pictures(5))
    assert mode.device.type == log_variance.device.type == "meta"


def test_a_stream_keeps_its_size(vae: torch.nn.Module) -> None:
    stream = DecodeStream(vae)
    stream.push(latents(1))
    with pytest.raises(UsageError, match=r"got a batch of 1 with 4 x 5 .* \(1, 4, 4\)"):
        stream.push(latents(1, 4, 5))
    encoder = EncodeStream(vae)
    with pytest.raises(UsageError, match=r"expected \(B, 3, 1, H, W\)"):
        encoder.push(pictures(4))
    encoder.push(pictures(1))
    with pytest.raises(UsageError, match=r"expected \(B, 3, 4, H, W\)"):
        encoder.push(pictures(1))
    with pytest.raises(UsageError, match="32 x 40"):
        encoder.push(pictures(4, 32, 40))


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    size=st.integers(2, 12),
    data=st.data(),
    scale=st.sampled_from((1, 8)),
)
def test_weights_of_every_pixel_add_up_to_one(
    rows: int, columns: int, size: int, data: st.DataObject, scale: int
) -> None:
    """What is cut into tiles and blended again is what it was."""
    tiling = Tiling(8 * size, 8 * data.draw(st.integers(1, size - 1)))
    values = torch.rand(1, 1, 1, rows * scale, columns * scale)
    tiles = _tiles(rows, columns, tiling)
    assert _blend([_cut(values, tile, scale) for tile in tiles], tiles, scale, tiling).sub(values).abs().max() < 1e-5


def test_one_tile_is_no_tiling(vae: torch.nn.Module) -> None:
    z = latents(2)
    assert torch.equal(decode(vae, z, Tiling(32, 8)), decode(vae, z))


@torch.no_grad()
def test_tiles_add_up_without_seams(vae: torch.nn.Module) -> None:
    """A picture that is the same everywhere far from its edges comes out so; tiles stay near the whole decode."""
    z = latents(1, 1, 1).expand(-1, -1, 2, 12, 16)
    whole, tiled = decode(vae, z), decode(vae, z, Tiling(64, 32))
    assert tiled.shape == whole.shape
    assert (tiled - whole).abs().mean() < 0.1 * whole.std()
    step = (tiled[..., 1:] - tiled[..., :-1]).abs().mean(dim=(0, 1, 2, 3))
    reference = (whole[..., 1:] - whole[..., :-1]).abs().mean(dim=(0, 1, 2, 3))
    assert step.max() < 1.5 * reference.max()


def test_tiled_encode_is_near(vae: torch.nn.Module) -> None:
    x = pictures(5, 64, 96)
    whole, tiled = encode(vae, x), encode(vae, x, Tiling(48, 24))
    assert tiled.shape == whole.shape
    assert (tiled - whole).abs().mean() < 0.3 * whole.std()


def test_bfloat16_runs() -> None:
    z = latents(2)
    half = decode(tiny_vae().to(torch.bfloat16), z)
    assert half.dtype == torch.bfloat16
    assert (half.float() - decode(tiny_vae(), z)).abs().mean() < 0.05


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda v: encode(v, pictures(4)), "got 4 pictures, expected 4k"),
        (lambda v: encode(v, pictures(5, 30)), "divisible by 8"),
        (lambda v: encode(v, pictures(5)[0]), "0 pictures"),
        (lambda v: DecodeStream(v).push(latents(2)), "expected one latent frame"),
        (lambda v: DecodeStream(v).push(latents(1)[:, :4]), "expected one latent frame"),
        (lambda v: Tiling(64, 64), "0 < overlap < size"),
        (lambda v: Tiling(60, 20), "multiples of 8"),
    ],
)
def test_wrong_shapes_are_named(vae: torch.nn.Module, call: object, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        call(vae)
