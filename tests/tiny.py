"""Takes a seed, gives tiny networks of the real classes with random weights, and inputs for them."""

from __future__ import annotations

import torch

from avatarctl.networks.dims import WAN_VAE, TransformerDims
from avatarctl.networks.kinds import build_transformer, build_vae
from avatarctl.networks.transformer import StableAvatarTransformer3DModel

TINY = TransformerDims(
    dim=48, heads=4, layers=2, ffn=96, text=24, text_len=12, clip=20, w2v=16, freq_dim=32, vocal_heads=8
)
FRAMES, ROWS, COLUMNS = 6, 6, 4


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Fill every parameter with small random numbers (some start at zero, which would hide mistakes)."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        values = torch.randn(parameter.shape, generator=generator)
        scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
        offset = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0
        parameter.data = offset + values * scale


def tiny_transformer(dims: TransformerDims = TINY, seed: int = 0) -> StableAvatarTransformer3DModel:
    model = build_transformer(dims).eval()
    randomise(model, seed)
    return model


def tiny_inputs(dims: TransformerDims = TINY, seed: int = 1, batch: int = 1) -> dict[str, torch.Tensor]:
    """Give the arguments of the transformer's forward, audio states included."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "hidden_states": draw(batch, dims.out_dim, FRAMES, ROWS, COLUMNS),
        "timestep": torch.full((batch,), 500.0),
        "encoder_hidden_states": draw(batch, dims.text_len - 3, dims.text),
        "encoder_hidden_states_image": draw(1, 17, dims.clip),
        "condition": draw(batch, dims.in_dim - dims.out_dim, FRAMES, ROWS, COLUMNS),
        "audio_states": draw(batch, 41, dims.w2v),
    }


def tiny_vae(folded: bool = False, seed: int = 0) -> torch.nn.Module:
    """Give a Wan VAE 8 channels wide: the released layout, or three levels with pixels folded two by two."""
    dims = WAN_VAE.with_(base_dim=8)
    if folded:
        dims = dims.with_(dim_mult=(1, 2, 4), temporal_downsample=(True, True), patch_size=2, channels=12)
    model = build_vae(dims).eval()
    randomise(model, seed)
    return model.requires_grad_(False)
