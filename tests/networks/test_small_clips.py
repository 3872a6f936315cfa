"""Small clips on a CPU: the fast path gives what torch's own gives, to rounding, and is the one that is taken."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from avatarctl.networks.dims import WAN_VAE
from avatarctl.networks.kinds import build_vae
from avatarctl.networks.small_clips import FEW, is_slow
from avatarctl.networks.vae import DecodeStream

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")
DIMS = WAN_VAE.with_(base_dim=8, z_dim=4, dim_mult=(1, 2), temporal_downsample=(True,), mean=(0.0,) * 4, std=(1.0,) * 4)


def decoded(vae: torch.nn.Module) -> tuple[torch.Tensor, set[str]]:
    latents = torch.randn(1, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    stream = DecodeStream(vae)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        frames = torch.cat([stream.push(latents[:, :, i : i + 1]) for i in range(3)], dim=2)
    return frames, {event.key for event in seen.key_averages()}


@needs_onednn
def test_the_fast_path_is_taken_and_differs_by_rounding_alone() -> None:
    torch.manual_seed(0)
    quick = build_vae(DIMS)
    plain = copy.deepcopy(quick)
    for module in plain.modules():
        module.__dict__.pop("_conv_forward", None)
    (fast, ops), (slow, slow_ops) = decoded(quick), decoded(plain)
    assert "aten::slow_conv3d_forward" in slow_ops and "aten::slow_conv3d_forward" not in ops
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)


@needs_onednn
def test_gradients_are_those_of_the_slow_path() -> None:
    torch.manual_seed(0)
    quick = build_vae(DIMS).encoder.conv_in
    x = torch.randn(1, 3, 3, 8, 8, requires_grad=True)
    quick(x).square().sum().backward()
    assert x.grad is not None and quick.weight.grad is not None
    found, weights = x.grad.clone(), quick.weight.grad.clone()
    x.grad = quick.weight.grad = None
    quick.__dict__.pop("_conv_forward")
    quick(x).square().sum().backward()
    torch.testing.assert_close(found, x.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(weights, quick.weight.grad, rtol=1e-4, atol=1e-3)


def test_a_copy_uses_its_own_weights() -> None:
    torch.manual_seed(0)
    vae = build_vae(DIMS)
    other = copy.deepcopy(vae)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert float(decoded(other)[0].abs().max()) == 0 < float(decoded(vae)[0].abs().max())


def test_only_single_small_clips_of_float32_on_a_cpu_are_slow() -> None:
    assert is_slow(torch.zeros(1, 16, 6, 66, 66))
    assert not is_slow(torch.zeros(2, 16, 6, 66, 66))
    assert not is_slow(torch.zeros(1, 16, 6, 66, 66, dtype=torch.bfloat16))
    assert not is_slow(torch.zeros(1, 1, 1, FEW + 1, 8))
    assert not is_slow(torch.zeros(1, 16, 6, 66, 66, device="meta"))
