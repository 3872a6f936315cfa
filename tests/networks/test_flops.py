"""Tests with counted operations: those of passes, decoding and encoding are what torch counts."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_vae
from torch.utils.flop_counter import FlopCounterMode

from avatarctl.networks import flops
from avatarctl.networks import vae as V
from avatarctl.networks.dims import TRANSFORMER_1_3B, WAN_VAE
from avatarctl.networks.tiling import Tiling

TINY_VAE = WAN_VAE.with_(base_dim=8)
FOLDED = TINY_VAE.with_(dim_mult=(1, 2, 4), temporal_downsample=(True, True), patch_size=2, channels=12)


def counted(run: object) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize("folded", [False, True], ids=["released layout", "folded"])
def test_the_vae(folded: bool) -> None:
    vae, dims = tiny_vae(folded).to("meta"), FOLDED if folded else TINY_VAE
    width, height = 64, 48
    decoding, encoding = V.DecodeStream(vae), V.EncodeStream(vae)
    latents = [torch.empty(1, 16, 1, height // 8, width // 8, device="meta") for _ in range(3)]
    for each in latents[:2]:
        decoding.push(each)
    for count in (1, 4):
        encoding.push(torch.empty(1, 3, count, height, width, device="meta"))
    decoded = counted(lambda: decoding.push(latents[2]))
    encoded = counted(lambda: encoding.push(torch.empty(1, 3, 4, height, width, device="meta")))
    assert flops.of_decoding(dims, width, height).total == pytest.approx(decoded, rel=0.03)
    assert flops.of_encoding(dims, width, height).total == pytest.approx(encoded, rel=0.03)


def test_at_full_size_they_are_those_of_the_review() -> None:
    """Counted once at full width on a pretended device: 8.88 and 13.55 TFLOP a latent frame, 143 TFLOP a pass."""
    assert flops.of_decoding(WAN_VAE, 512, 512).total == pytest.approx(8.88e12, rel=0.01)
    assert flops.of_decoding(WAN_VAE, 480, 832).total == pytest.approx(13.55e12, rel=0.01)
    tiles = Tiling(288, 64, 288)
    assert flops.of_decoding(WAN_VAE, 512, 512, tiles).total == pytest.approx(1.27 * 8.88e12, rel=0.01)
    one = flops.of_pass(TRANSFORMER_1_3B, 21504, 512, 257, 161)
    assert one.total == pytest.approx(143e12, rel=0.01)
    assert one.attention / one.total == pytest.approx(0.6, abs=0.03), "60 % at 512x512"


def test_a_pass_that_hears_nothing_is_cheaper_and_the_adapter_comes_once() -> None:
    whole = flops.of_pass(TRANSFORMER_1_3B, 21504, 512, 257, 161)
    again = flops.of_pass(TRANSFORMER_1_3B, 21504, 512, 257, 161, adapts=False)
    silent = flops.of_pass(TRANSFORMER_1_3B, 21504, 512, 257, 161, hears=False, adapts=False)
    assert whole.total > again.total > silent.total > 0.95 * whole.total
    assert again.calls < whole.calls
    compiled = flops.of_pass(TRANSFORMER_1_3B, 21504, 512, 257, 161, compiled=True)
    assert compiled.total == whole.total and compiled.moved < whole.moved
