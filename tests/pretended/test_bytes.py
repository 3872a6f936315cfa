"""Tests with a pretended GPU at full width: peaks are those of the calculation, and little moves between the memories."""

from __future__ import annotations

import gc

import pytest
import torch
from gpu import CUDA, Bytes, pretended
from setting import MODES, Steps, loaded, placement
from variants import some

from avatarctl.networks import kinds, memory
from avatarctl.networks import vae as V
from avatarctl.networks.conditions import reference_condition
from avatarctl.networks.dims import TRANSFORMER_1_3B, WAN_VAE, WAV2VEC2_BASE, TransformerDims
from avatarctl.networks.residency import residency_of
from avatarctl.networks.tiling import Tiling, small_tiling

FRAMES = 21
CACHE_PER_PIXEL = {2: 4730, 4: 9460}  # bytes of the causal cache, by the bytes of a value
MB = 1 << 20


def measure(
    dims: TransformerDims, mode: str, float8: bool, size: tuple[int, int], vae_dtype: torch.dtype, tiling: Tiling | None
) -> dict[str, float]:
    """Return the peak and the bytes moved of a window step and of a decoded latent frame, with everything resident."""
    with pretended() as counted:
        steps = Steps(dims, mode, float8, size, FRAMES, vae_dtype=vae_dtype, tiling=tiling)
        vae = loaded(kinds.build_vae(WAN_VAE), steps.residency, "vae")
        speech = loaded(kinds.build_speech_encoder(WAV2VEC2_BASE), steps.residency, "speech encoder")
        predict = steps.predictor()
        predict(steps.requests(0))
        found = {"first step": counted.peak, **moved(counted)}
        predict(steps.requests(1))
        found["step peak"] = counted.peak
        found |= {f"step {name}": size for name, size in moved(counted).items()}
        decoder = steps.residency.use(vae)  # the transformer has left by now where there is room for one alone
        counted.reset()
        stream = V.DecodeStream(decoder, tiling)
        for _ in stream.run(latents(steps, V.TOGETHER if tiling else 2)):
            pass
        counted.moved.clear()
        pictures = list(stream.run(latents(steps, V.TOGETHER if tiling else 1)))
        assert pictures[0].device == CUDA
        found |= {"decode peak": counted.peak, "decode to device": counted.moved["to device"] / len(pictures)}
        del speech
    return found


def latents(steps: Steps, count: int) -> list[torch.Tensor]:
    return [torch.randn(1, 16, 1, steps.rows, steps.columns) for _ in range(count)]


def moved(counted: Bytes) -> dict[str, float]:
    gc.collect()
    found = dict(counted.moved)
    counted.reset()
    return found


def check(
    dims: TransformerDims,
    mode: str,
    float8: bool,
    size: tuple[int, int],
    vae_dtype: torch.dtype = torch.bfloat16,
    tiling: Tiling | None = None,
) -> None:
    found = measure(dims, mode, float8, size, vae_dtype, tiling)
    calculated = memory.estimate(
        dims, *size, FRAMES, mode, 2, float8, on_gpu=False, tiling=tiling, vae_bytes=vae_dtype.itemsize
    )
    for counted, part in ((found["step peak"], calculated.sampling), (found["decode peak"], calculated.decode)):
        assert 0.9 < part / counted < 1.1, (mode, float8, part / MB, {k: v / MB for k, v in found.items()})
    # A window's later steps send its latents alone; streamed modes also the weights, once per pass.
    latents = 16 * FRAMES * (size[0] // 8) * (size[1] // 8) * 4
    weights = memory.transformer_bytes(dims, 2, float8)
    streamed = {"full": 0, "model": 0, "group": 3 * weights, "sequential": 3.2 * weights}[mode]
    assert latents <= found["step to device"] <= streamed + latents, (mode, found["step to device"] / MB)
    assert found["step to memory"] == latents, "the guided velocity comes back, once, and no weights"
    # The decoder is there; of tiles each one's cache travels once in eight latent frames.
    cache = 0 if tiling is None else CACHE_PER_PIXEL[vae_dtype.itemsize] * tiling.work(*size) * size[0] * size[1]
    assert found["decode to device"] < 2 * MB + 1.1 * cache / V.TOGETHER, found["decode to device"] / MB


@pytest.mark.parametrize("mode", some(MODES, "full", "group"))
def test_two_layers_at_full_width(mode: str) -> None:
    check(TRANSFORMER_1_3B.with_(layers=2), mode, False, (512, 512))


@pytest.mark.parametrize(
    ("mode", "vae_dtype"), some([("group", torch.bfloat16), ("full", torch.float32)], ("full", torch.float32)), ids=str
)
def test_tiles_at_full_width(mode: str, vae_dtype: torch.dtype) -> None:
    check(TRANSFORMER_1_3B.with_(layers=2), mode, False, (512, 512), vae_dtype, small_tiling(512, 512))


@pytest.mark.parametrize("vae_dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("tiling", [None, small_tiling(512, 512)], ids=["whole", "tiles"])
def test_encoding_the_picture(tiling: Tiling | None, vae_dtype: torch.dtype) -> None:
    with pretended() as counted:
        residency = residency_of(placement("model", vae_dtype=vae_dtype))
        vae = loaded(kinds.build_vae(WAN_VAE), residency, "vae")
        reference_condition(residency.use(vae), torch.randn(3, 512, 512).to(CUDA), 4, tiling)
    calculated = memory.estimate(
        TRANSFORMER_1_3B, 512, 512, memory="sequential", on_gpu=False, tiling=tiling, vae_bytes=vae_dtype.itemsize
    )
    assert 0.9 < calculated.conditions / counted.peak < 1.1, (calculated.conditions / MB, counted.peak / MB)


def test_float8_at_full_width() -> None:
    check(TRANSFORMER_1_3B.with_(layers=2), "full", True, (512, 512))


@pytest.mark.long
@pytest.mark.parametrize("size", [(512, 512), (480, 832)], ids=str)
@pytest.mark.parametrize("float8", [False, True], ids=["same", "float8"])
@pytest.mark.parametrize("mode", MODES)
def test_the_whole_network(mode: str, float8: bool, size: tuple[int, int]) -> None:
    check(TRANSFORMER_1_3B, mode, float8, size)
