"""The StableAvatar transformer: predict the velocity of a window's noisy latents under its conditions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.attention import AttentionMixin
from diffusers.models.cache_utils import CacheMixin
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.normalization import FP32LayerNorm
from diffusers.models.transformers.transformer_wan import (
    WanRotaryPosEmbed,
    WanTimeTextImageEmbedding,
    WanTransformer3DModel,
)
from diffusers.utils import BaseOutput
from torch import Tensor, nn

from avatarctl.errors import UsageError
from avatarctl.networks.audio_adapter import AudioAdapter
from avatarctl.networks.block import ContextKV, StableAvatarTransformerBlock
from avatarctl.networks.dims import TransformerDims


@dataclass
class AvatarOutput(BaseOutput):
    """``sample``: velocity (B, C, T, H, W). ``audio_tokens``: what the adapter gave, for another pass over the same latents."""

    sample: Tensor
    audio_tokens: Tensor | None = None


class StableAvatarTransformer3DModel(ModelMixin, ConfigMixin, PeftAdapterMixin, CacheMixin, AttentionMixin):
    """The video diffusion transformer of StableAvatar: Wan2.1 image-to-video with audio per latent frame.

    Configuration keys are those of diffusers' ``WanTransformer3DModel`` where they mean the same;
    ``from_dims`` builds it from :class:`~avatarctl.networks.dims.TransformerDims`.
    Source: StableAvatar (Tu et al. 2025), section 3; Wan2.1 (Wan Team 2025), section 4.2.
    """

    _supports_gradient_checkpointing = True
    _skip_layerwise_casting_patterns = WanTransformer3DModel._skip_layerwise_casting_patterns
    _no_split_modules = ["StableAvatarTransformerBlock", "AudioAdapterBlock"]  # noqa: RUF012
    # The released network computes time embedding and modulation in float32, whatever the dtype of the rest.
    _keep_in_fp32_modules = [*WanTransformer3DModel._keep_in_fp32_modules, "time_proj"]  # noqa: RUF012
    _repeated_blocks = ["StableAvatarTransformerBlock"]  # noqa: RUF012
    _cp_plan = {name: WanTransformer3DModel._cp_plan[name] for name in ("rope", "blocks.0", "proj_out")}  # noqa: RUF012

    @register_to_config
    def __init__(
        self,
        patch_size: tuple[int, int, int] = (1, 2, 2),
        num_attention_heads: int = 12,
        attention_head_dim: int = 128,
        in_channels: int = 36,
        out_channels: int = 16,
        text_dim: int = 4096,
        text_len: int = 512,
        freq_dim: int = 256,
        ffn_dim: int = 8960,
        num_layers: int = 30,
        image_dim: int = 1280,
        audio_dim: int = 768,
        audio_heads: int = 8,
        audio_hidden_dim: int | None = None,
        eps: float = 1e-6,
        rope_max_seq_len: int = 1024,
    ) -> None:
        super().__init__()
        dim = num_attention_heads * attention_head_dim

        # 1. Tokens and their places
        self.rope = WanRotaryPosEmbed(attention_head_dim, patch_size, rope_max_seq_len)
        self.patch_embedding = nn.Conv3d(in_channels, dim, kernel_size=patch_size, stride=patch_size)

        # 2. Conditions
        self.condition_embedder = WanTimeTextImageEmbedding(
            dim=dim, time_freq_dim=freq_dim, time_proj_dim=6 * dim, text_embed_dim=text_dim, image_embed_dim=image_dim
        )
        self.vocal_projector = AudioAdapter(audio_dim, dim, audio_heads, audio_hidden_dim, eps)

        # 3. Blocks
        self.blocks = nn.ModuleList(
            [StableAvatarTransformerBlock(dim, ffn_dim, num_attention_heads, eps, text_len) for _ in range(num_layers)]
        )

        # 4. Output
        self.norm_out = FP32LayerNorm(dim, eps, elementwise_affine=False)
        self.proj_out = nn.Linear(dim, out_channels * math.prod(patch_size))
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)

        self.gradient_checkpointing = False

    @classmethod
    def from_dims(cls, dims: TransformerDims) -> StableAvatarTransformer3DModel:
        """Build a model of these sizes (weights are random: load them with ``checkpoints.load_transformer``)."""
        if dims.dim % dims.heads or dims.dim % dims.vocal_heads:
            raise UsageError(
                f"dims: got width {dims.dim} with {dims.heads} heads and {dims.vocal_heads} adapter heads, "
                "expected a width that both divide"
            )
        # Keywords only: positional arguments never reach the registered configuration.
        return cls(
            patch_size=dims.patch,
            num_attention_heads=dims.heads,
            attention_head_dim=dims.dim // dims.heads,
            in_channels=dims.in_dim,
            out_channels=dims.out_dim,
            text_dim=dims.text,
            text_len=dims.text_len,
            freq_dim=dims.freq_dim,
            ffn_dim=dims.ffn,
            num_layers=dims.layers,
            image_dim=dims.clip,
            audio_dim=dims.w2v,
            audio_heads=dims.vocal_heads,
            audio_hidden_dim=dims.vocal_hidden,
        )

    @classmethod
    def without_memory(cls, dims: TransformerDims) -> StableAvatarTransformer3DModel:
        """Build a model of these sizes whose weights have names and shapes alone."""
        with init_empty_weights():
            return cls.from_dims(dims)

    @property
    def dims(self) -> TransformerDims:
        """The sizes that this model was built with."""
        c = self.config
        return TransformerDims(
            dim=c.num_attention_heads * c.attention_head_dim,
            heads=c.num_attention_heads,
            layers=c.num_layers,
            ffn=c.ffn_dim,
            text=c.text_dim,
            text_len=c.text_len,
            clip=c.image_dim,
            w2v=c.audio_dim,
            freq_dim=c.freq_dim,
            in_dim=c.in_channels,
            out_dim=c.out_channels,
            patch=tuple(c.patch_size),
            vocal_heads=c.audio_heads,
            vocal_hidden=c.audio_hidden_dim,
        )

    def embed_context(self, text_states: Tensor, image_tokens: Tensor) -> Tensor:
        """Embed image tokens (B, 257, image width) and text states (B, L <= text_len, text width), image first.

        Text is padded with zeros to ``text_len`` before the projection: the padding is attended to, as released.
        """
        missing = self.config.text_len - text_states.shape[1]
        if missing < 0:
            raise UsageError(f"text states: got {text_states.shape[1]} tokens, expected at most {self.config.text_len}")
        dtype = self.patch_embedding.weight.dtype
        text = nn.functional.pad(text_states.to(dtype), (0, 0, 0, missing))
        text = self.condition_embedder.text_embedder(text)
        image = self.condition_embedder.image_embedder(image_tokens.to(dtype))
        return torch.cat([image.to(text.dtype).expand(text.shape[0], -1, -1), text], dim=1)

    def precompute_context(self, text_states: Tensor, image_tokens: Tensor) -> tuple[ContextKV, ...]:
        """Return every block's text and image keys and values, to be passed to ``forward`` as ``context`` all render long.

        About 4.7 MB per block and text in bfloat16 at the 1.3B size. Call it before offloading hooks are attached.
        """
        tokens = self.embed_context(text_states, image_tokens)
        blocks: Any = self.blocks
        return tuple(block.attn2.context(tokens) for block in blocks)

    def embed_time(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """Return the time embedding (B, D) and its modulation (B, 6, D) of ``timestep`` (B,), both in float32."""
        embedder = self.condition_embedder
        # Training's autocast would narrow the layers that the released network keeps in float32.
        with torch.autocast(timestep.device.type, enabled=False):
            frequencies = embedder.timesteps_proj(timestep)
            temb = embedder.time_embedder(frequencies.to(embedder.time_embedder.linear_1.weight.dtype))
            modulation = embedder.time_proj(embedder.act_fn(temb).to(embedder.time_proj.weight.dtype))
        return temb.float(), modulation.float().unflatten(1, (6, -1))

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor | None = None,
        encoder_hidden_states_image: Tensor | None = None,
        condition: Tensor | None = None,
        audio_states: Tensor | None = None,
        audio_tokens: Tensor | None = None,
        window: int | None = None,
        clip_level_audio: bool = False,
        audio_kept: Tensor | None = None,
        context: tuple[ContextKV, ...] | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
        return_dict: bool = True,
    ) -> AvatarOutput | tuple[Tensor, Tensor | None]:
        """Predict the velocity of a window.

        - ``hidden_states`` (B, C, T, H, W): noisy latents; ``condition`` (B, 20, T or more, H, W): mask and reference
          latents, concatenated to them (None: ``hidden_states`` holds all input channels already).
        - ``timestep`` (B,): 0 … 1000.
        - text states (B, L, text width) and image tokens (B or 1, 257, image width), or ``context`` made of them.
        - audio: ``audio_states`` (B, states, audio width) go through the adapter; ``audio_tokens`` (B, T, N, D) skip it;
          with neither, the audio tokens are zero ("no audio").
        - ``window``: full length in latent frames when T is a shorter last window; zero tokens fill it up.
        - ``clip_level_audio``: every latent token hears the audio tokens of the whole window.
        - ``audio_kept`` (B,): whether a sample's audio tokens count, or become zero (training's dropout).
        - ``rotary_emb``: what ``self.rope`` gave for latents of this shape, to save making it again.

        Returns ``AvatarOutput`` (or its two fields) with ``sample`` (B, out channels, T, H, W).
        """
        frames, height, width = hidden_states.shape[2:]
        p_t, p_h, p_w = self.config.patch_size
        if rotary_emb is None:
            rotary_emb = self.rope(hidden_states)

        # 1. Latents to tokens
        if condition is not None:
            hidden_states = torch.cat([hidden_states, condition[:, :, :frames].to(hidden_states.dtype)], dim=1)
        if hidden_states.shape[1] != self.config.in_channels:
            raise UsageError(
                f"latents and condition: got {hidden_states.shape[1]} channels, expected {self.config.in_channels}"
            )
        dtype = self.patch_embedding.weight.dtype
        tokens = self.patch_embedding(hidden_states.to(dtype)).flatten(2).transpose(1, 2).contiguous()
        length = tokens.shape[1]
        tokens_per_frame = (height // p_h) * (width // p_w)
        latent_frames = max(window or 0, frames) // p_t
        padding = latent_frames * tokens_per_frame - length
        if padding:
            tokens = nn.functional.pad(tokens, (0, 0, 0, padding))
            cos, sin = rotary_emb
            # Padding stays unrotated: cosine 1, sine 0.
            rotary_emb = (
                nn.functional.pad(cos, (0, 0, 0, 0, 0, padding), value=1.0),
                nn.functional.pad(sin, (0, 0, 0, 0, 0, padding)),
            )

        # 2. Time, text and image, audio
        temb, time_modulation = self.embed_time(timestep)
        encoder_states = None
        if context is None:
            if encoder_hidden_states is None or encoder_hidden_states_image is None:
                raise UsageError("conditions: got none, expected text states and image tokens, or context")
            encoder_states = self.embed_context(encoder_hidden_states, encoder_hidden_states_image)
        if audio_tokens is None and audio_states is not None:
            adapter_inputs = (audio_states.to(dtype), tokens, temb, time_modulation, latent_frames)
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                audio_tokens = self._gradient_checkpointing_func(self.vocal_projector, *adapter_inputs)
            else:
                audio_tokens = self.vocal_projector(*adapter_inputs)
        if audio_kept is not None and audio_tokens is not None:
            audio_tokens = audio_tokens * audio_kept[:, None, None, None]
        heard, span = audio_tokens, tokens_per_frame
        if clip_level_audio and audio_tokens is not None:
            heard, span = audio_tokens.flatten(1, 2).unsqueeze(1), latent_frames * tokens_per_frame

        # 3. Blocks
        for index, block in enumerate(self.blocks):
            arguments = (
                tokens,
                encoder_states,
                time_modulation,
                rotary_emb,
                heard,
                span,
                context[index] if context is not None else None,
            )
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                tokens = self._gradient_checkpointing_func(block, *arguments)
            else:
                tokens = block(*arguments)

        # 4. Tokens to velocity
        shift, scale = (self.scale_shift_table.to(temb.device) + temb.unsqueeze(1)).chunk(2, dim=1)
        tokens = (self.norm_out(tokens.float()) * (1 + scale) + shift).type_as(tokens)
        patches = self.proj_out(tokens)[:, :length]
        patches = patches.unflatten(1, (frames // p_t, height // p_h, width // p_w)).unflatten(-1, (p_t, p_h, p_w, -1))
        sample = patches.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)
        if not return_dict:
            return sample, audio_tokens
        return AvatarOutput(sample=sample, audio_tokens=audio_tokens)
