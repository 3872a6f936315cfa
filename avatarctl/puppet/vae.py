"""The embedded avatar's VAE: built with weights that learn, and run over whole clips at once instead of chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    AutoencoderKLWan,
    WanAttentionBlock,
    WanResample,
    WanResidualBlock,
    patchify,
    unpatchify,
)
from torch import Tensor, nn

from avatarctl.networks.dims import WAN_VAE, VaeDims
from avatarctl.networks.kinds import build_vae
from avatarctl.training.draws import seed_of

DIMS = WAN_VAE.with_(
    base_dim=16,
    num_res_blocks=1,
    dim_mult=(1, 2, 4),
    temporal_downsample=(True, True),
    patch_size=2,
    channels=12,
    mean=(0.0,) * 16,
    std=(1.0,) * 16,
)
LOG_VARIANCE = -6.0  # of fresh weights


def new_vae(seed: int, dims: VaeDims = DIMS) -> AutoencoderKLWan:
    """Return a VAE with Kaiming weights, the last convolution of every residual and attention branch zero.

    With the default initialisation training stalls at the mean picture.
    """
    torch.manual_seed(seed_of(seed, "vae weights"))
    model = build_vae(dims)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in model.modules():
        last = module.conv2 if isinstance(module, WanResidualBlock) else None
        last = module.proj if isinstance(module, WanAttentionBlock) else last
        if last is not None:
            nn.init.zeros_(last.weight)
    nn.init.zeros_(model.decoder.conv_out.weight)
    with torch.no_grad():
        model.quant_conv.bias[dims.z_dim :] += LOG_VARIANCE
        model.quant_conv.weight[dims.z_dim :] *= 0.1
        model.quant_conv.weight[: dims.z_dim] *= 0.7
    return at_once(model)


def at_once(model: AutoencoderKLWan) -> AutoencoderKLWan:
    """Let the layers that change time take whole clips when called without a cache, as they do chunk by chunk with one."""
    for module in model.modules():
        if isinstance(module, WanResample) and module.mode in ("upsample3d", "downsample3d"):
            module.forward = _resample_at_once(module, module.forward)
    return model


def _resample_at_once(module: WanResample, chunked: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def forward(x: Tensor, feat_cache: Any = None, feat_idx: Any = None) -> Tensor:
        if feat_cache is not None:
            return chunked(x, feat_cache, feat_idx)
        if module.mode == "upsample3d":
            first, rest = x[:, :, :1], x[:, :, 1:]
            if rest.shape[2]:
                doubled = module.time_conv(rest).unflatten(1, (2, -1))
                rest = torch.stack([doubled[:, 0], doubled[:, 1]], dim=3).flatten(2, 3)
            x = torch.cat([first, rest], dim=2)
        frames = x.shape[2]
        flat = module.resample(x.transpose(1, 2).flatten(0, 1))
        x = flat.unflatten(0, (-1, frames)).transpose(1, 2)
        if module.mode == "downsample3d" and frames > 1:
            x = torch.cat([x[:, :, :1], module.time_conv(x)], dim=2)
        return x

    return forward


def encode_at_once(model: AutoencoderKLWan, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and log-variance (B, z, T', H / 8, W / 8) of whole clips."""
    moments = model.quant_conv(model.encoder(patchify(pictures, model.config.patch_size)))
    mean, log_variance = moments.chunk(2, dim=1)
    return mean, log_variance.clamp(-30, 20)


def decode_at_once(model: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Return the pictures (B, 3, T, H, W) of whole clips."""
    return unpatchify(model.decoder(model.post_quant_conv(latents)), model.config.patch_size)
