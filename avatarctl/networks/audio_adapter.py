"""Time-step-aware audio adapter: wav2vec 2.0 states and noisy latent tokens to audio tokens per latent frame."""

from __future__ import annotations

from functools import lru_cache

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.normalization import FP32LayerNorm
from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor
from torch import Tensor, nn

from avatarctl.networks.spans import frame_spans

ADAPTER_LAYERS = 2


@lru_cache(maxsize=64)
def frame_gather(audio_tokens: int, latent_frames: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return index and validity, both (latent frames, tokens per frame) on a device, that cut audio tokens per latent frame.

    Tokens of a span that lie inside the sequence come first, in order; what lies outside is padding on the right.
    """
    index, valid = [], []
    for start, stop in frame_spans(audio_tokens, latent_frames):
        inside = range(max(start, 0), min(stop, audio_tokens - 1) + 1)
        padding = stop - start + 1 - len(inside)
        index.append([*inside, *[0] * padding])
        valid.append([True] * len(inside) + [False] * padding)
    return torch.tensor(index, device=device), torch.tensor(valid, device=device)


class AudioAdapterBlock(nn.Module):
    """Modulation by time, cross-attention from audio tokens to the latent tokens of their frame, feed-forward."""

    def __init__(self, dim: int, heads: int, eps: float) -> None:
        super().__init__()
        self.norm1 = FP32LayerNorm(dim, eps, elementwise_affine=False)
        self.norm2 = FP32LayerNorm(dim, eps, elementwise_affine=True)
        self.attn2 = WanAttention(
            dim=dim,
            heads=heads,
            dim_head=dim // heads,
            eps=eps,
            cross_attention_dim_head=dim // heads,
            processor=WanAttnProcessor(),
        )
        self.norm3 = FP32LayerNorm(dim, eps, elementwise_affine=False)
        self.ffn = FeedForward(dim, inner_dim=2 * dim, activation_fn="gelu-approximate")
        self.scale_shift_table = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)

    def forward(self, tokens: Tensor, latent_tokens: Tensor, time_modulation: Tensor, latent_frames: int) -> Tensor:
        """Refine ``tokens`` (B, frames * tokens per frame, D) with ``latent_tokens`` (B, L, D); modulation is (B, 6, D)."""
        shift, scale, gate, ff_shift, ff_scale, ff_gate = (self.scale_shift_table + time_modulation.float()).chunk(6, 1)

        # 1. Modulated residual: where a transformer block has self-attention, this one has nothing.
        modulated = self.norm1(tokens.float()) * (1 + scale) + shift
        tokens = (tokens.float() + modulated * gate).type_as(tokens)

        # 2. Cross-attention, one latent frame at a time
        query = self.norm2(tokens.float()).type_as(tokens).unflatten(1, (latent_frames, -1)).flatten(0, 1)
        context = latent_tokens.unflatten(1, (latent_frames, -1)).flatten(0, 1)
        attended = self.attn2(query, context)
        tokens = tokens + attended.unflatten(0, (-1, latent_frames)).flatten(1, 2)

        # 3. Feed-forward
        modulated = (self.norm3(tokens.float()) * (1 + ff_scale) + ff_shift).type_as(tokens)
        return (tokens.float() + self.ffn(modulated).float() * ff_gate).type_as(tokens)


class AudioAdapter(nn.Module):
    """The time-step-aware audio adapter of StableAvatar (section 3.2): speech states to audio tokens per latent frame.

    ``hidden_dim`` is the width of the extra projection that the 14B layout has (2048), None in the 1.3B layout.
    """

    def __init__(self, audio_dim: int, dim: int, heads: int, hidden_dim: int | None, eps: float) -> None:
        super().__init__()
        self.proj_in = nn.Linear(audio_dim, hidden_dim or dim, bias=False)
        self.norm_in = nn.LayerNorm(hidden_dim or dim)
        self.proj_hidden = nn.Linear(hidden_dim, dim, bias=False) if hidden_dim else None
        self.norm_hidden = nn.LayerNorm(dim) if hidden_dim else None
        self.blocks = nn.ModuleList([AudioAdapterBlock(dim, heads, eps) for _ in range(ADAPTER_LAYERS)])
        self.norm_out = FP32LayerNorm(dim, eps, elementwise_affine=False)
        self.proj_out = nn.Linear(dim, dim)
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)

    def forward(
        self,
        audio_states: Tensor,
        latent_tokens: Tensor,
        temb: Tensor,
        time_modulation: Tensor,
        latent_frames: int,
    ) -> Tensor:
        """Return audio tokens (B, latent frames, tokens per frame, D).

        ``audio_states`` (B, states, audio width) of the whole window, ``latent_tokens`` (B, L, D) before the first block,
        ``temb`` (B, D), ``time_modulation`` (B, 6, D). Zeroed ``audio_states`` give the adapter's answer to silence.
        """
        tokens = self.norm_in(self.proj_in(audio_states))
        if self.proj_hidden is not None and self.norm_hidden is not None:
            tokens = self.norm_hidden(self.proj_hidden(tokens))

        index, valid = frame_gather(audio_states.shape[1], latent_frames, tokens.device)
        cut = tokens[:, index] * valid[None, :, :, None]
        tokens = cut.flatten(1, 2)

        for block in self.blocks:
            tokens = block(tokens, latent_tokens, time_modulation, latent_frames)

        shift, scale = (self.scale_shift_table + temb.float().unsqueeze(1)).chunk(2, dim=1)
        tokens = self.proj_out((self.norm_out(tokens.float()) * (1 + scale) + shift).type_as(tokens))
        return tokens.unflatten(1, (latent_frames, -1))
