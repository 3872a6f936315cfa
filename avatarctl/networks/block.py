"""A block of the transformer: self-attention, cross-attention to text, image and audio, feed-forward."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch.distributed as dist
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor, WanTransformerBlock
from torch import Tensor, nn


class ContextKV(NamedTuple):
    """Keys and values (B, L, heads, head width) that one block makes of text and image; they never change in a render."""

    key: Tensor
    value: Tensor
    key_img: Tensor
    value_img: Tensor


class AvatarAttnProcessor(WanAttnProcessor):
    """Cross-attention to text, image and audio, summed before the output projection."""

    def __call__(
        self,
        attn: AvatarAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,  # noqa: ARG002 (diffusers passes both)
        rotary_emb: Any = None,  # noqa: ARG002
        audio_tokens: Tensor | None = None,
        tokens_per_frame: int = 0,
        context: ContextKV | None = None,
    ) -> Tensor:
        query = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1))
        if context is None:
            assert encoder_hidden_states is not None
            context = attn.context(encoder_hidden_states)
        attended = self._attend(query, context.key, context.value)
        attended = attended + self._attend(query, context.key_img, context.value_img)
        attended = attended + self._attend_audio(attn, query, audio_tokens, tokens_per_frame)
        return attn.to_out[1](attn.to_out[0](attended))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = dispatch_attention_fn(query, key, value, backend=self._attention_backend)
        return out.flatten(2, 3).type_as(query)

    def _attend_audio(
        self, attn: AvatarAttention, query: Tensor, audio_tokens: Tensor | None, tokens_per_frame: int
    ) -> Tensor:
        """Attend from each latent frame's queries to its own audio tokens; zero tokens need no attention at all."""
        if audio_tokens is None:
            # All keys and all values are the biases, so attention returns the value bias whatever the query.
            return attn.to_v_vocal(query.new_zeros(1, 1, attn.inner_dim))

        batch, frames = audio_tokens.shape[:2]
        length = query.shape[1]
        start = self._first_query(length, frames * tokens_per_frame)
        # A rank's share of the queries may begin and end inside a latent frame: pad it to whole frames.
        first = start // tokens_per_frame
        last = -(-(start + length) // tokens_per_frame)
        before = start - first * tokens_per_frame
        after = last * tokens_per_frame - start - length
        if before or after:
            query = nn.functional.pad(query, (0, 0, 0, 0, before, after))
        tokens = audio_tokens[:, first:last].flatten(0, 1)
        key = attn.to_k_vocal(tokens).unflatten(2, (attn.heads, -1))
        value = attn.to_v_vocal(tokens).unflatten(2, (attn.heads, -1))
        query = query.unflatten(1, (last - first, tokens_per_frame)).flatten(0, 1)
        out = self._attend(query, key, value).unflatten(0, (batch, -1)).flatten(1, 2)
        return out[:, before : before + length]

    def _first_query(self, length: int, total: int) -> int:
        """Return the place of this rank's first query under context parallelism (0 in one process)."""
        config = getattr(self._parallel_config, "context_parallel_config", None)
        if config is None or length == total:
            return 0
        mesh = config._flattened_mesh
        rank = dist.get_rank(mesh.get_group())
        return rank * (total // mesh.size()) + min(rank, total % mesh.size())


class AvatarAttention(WanAttention):
    """Wan's cross-attention with audio keys and values (without key norm, as released; zero at the start of training)."""

    _default_processor_cls = AvatarAttnProcessor
    _available_processors = [AvatarAttnProcessor]  # noqa: RUF012 (read as a plain list by the parent)

    def __init__(self, dim: int, heads: int, eps: float, text_len: int) -> None:
        super().__init__(
            dim=dim,
            heads=heads,
            dim_head=dim // heads,
            eps=eps,
            added_kv_proj_dim=dim,
            cross_attention_dim_head=dim // heads,
            processor=AvatarAttnProcessor(),
        )
        self.text_len = text_len
        self.to_k_vocal = nn.Linear(dim, dim)
        self.to_v_vocal = nn.Linear(dim, dim)
        for layer in (self.to_k_vocal, self.to_v_vocal):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def context(self, tokens: Tensor) -> ContextKV:
        """Return keys and values of embedded image tokens followed by embedded text tokens (B, image + text, D)."""
        image, text = tokens[:, : -self.text_len], tokens[:, -self.text_len :]
        if getattr(self, "fused_projections", False):
            key, value = self.to_kv(text).chunk(2, dim=-1)
            key_img, value_img = self.to_added_kv(image).chunk(2, dim=-1)
        else:
            key, value = self.to_k(text), self.to_v(text)
            key_img, value_img = self.add_k_proj(image), self.add_v_proj(image)
        heads = (self.heads, -1)
        return ContextKV(
            self.norm_k(key).unflatten(2, heads),
            value.unflatten(2, heads),
            self.norm_added_k(key_img).unflatten(2, heads),
            value_img.unflatten(2, heads),
        )


class StableAvatarTransformerBlock(WanTransformerBlock):
    """Wan's block whose cross-attention also listens to the audio tokens of each latent frame."""

    def __init__(self, dim: int, ffn_dim: int, num_heads: int, eps: float, text_len: int) -> None:
        super().__init__(
            dim=dim, ffn_dim=ffn_dim, num_heads=num_heads, cross_attn_norm=True, eps=eps, added_kv_proj_dim=dim
        )
        self.attn2 = AvatarAttention(dim=dim, heads=num_heads, eps=eps, text_len=text_len)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None,
        temb: Tensor,
        rotary_emb: tuple[Tensor, Tensor],
        audio_tokens: Tensor | None = None,
        tokens_per_frame: int = 0,
        context: ContextKV | None = None,
    ) -> Tensor:
        """Return the tokens (B, L, D) after self-attention, cross-attention and feed-forward; ``temb`` is (B, 6, D)."""
        shift, scale, gate, ff_shift, ff_scale, ff_gate = (self.scale_shift_table + temb.float()).chunk(6, dim=1)

        # 1. Self-attention
        normed = (self.norm1(hidden_states.float()) * (1 + scale) + shift).type_as(hidden_states)
        attended = self.attn1(normed, rotary_emb=rotary_emb)
        hidden_states = (hidden_states.float() + attended * gate).type_as(hidden_states)

        # 2. Cross-attention to text, image and audio
        normed = self.norm2(hidden_states.float()).type_as(hidden_states)
        attended = self.attn2(
            normed,
            encoder_hidden_states,
            audio_tokens=audio_tokens,
            tokens_per_frame=tokens_per_frame,
            context=context,
        )
        hidden_states = hidden_states + attended

        # 3. Feed-forward
        normed = (self.norm3(hidden_states.float()) * (1 + ff_scale) + ff_shift).type_as(hidden_states)
        return (hidden_states.float() + self.ffn(normed).float() * ff_gate).type_as(hidden_states)


# Block caches (first-block, MagCache, SeaCache) look a block up here to know where its hidden states are.
TransformerBlockRegistry.register(
    StableAvatarTransformerBlock,
    TransformerBlockMetadata(return_hidden_states_index=0, return_encoder_hidden_states_index=None),
)
