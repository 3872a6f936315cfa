"""Translate our parameter names into those of the released checkpoints, one substitution at a time."""

from __future__ import annotations

import re
from collections.abc import Callable

from avatarctl.networks.dims import Dims, TransformerDims, VaeDims

# What weights are called in words that have all but the audio layers.
NO_ADAPTER = "image-to-video weights: no audio adapter"
Rename = Callable[[str], str]

# Each row rewrites one piece of one of our names; the first pattern that matches a name wins, dots are literal.
_TRANSFORMER_ROOT = (
    (r"^condition_embedder\.text_embedder\.linear_1\.", "text_embedding.0."),
    (r"^condition_embedder\.text_embedder\.linear_2\.", "text_embedding.2."),
    (r"^condition_embedder\.time_embedder\.linear_1\.", "time_embedding.0."),
    (r"^condition_embedder\.time_embedder\.linear_2\.", "time_embedding.2."),
    (r"^condition_embedder\.time_proj\.", "time_projection.1."),
    (r"^condition_embedder\.image_embedder\.norm1\.", "img_emb.proj.0."),
    (r"^condition_embedder\.image_embedder\.ff\.net\.0\.proj\.", "img_emb.proj.1."),
    (r"^condition_embedder\.image_embedder\.ff\.net\.2\.", "img_emb.proj.3."),
    (r"^condition_embedder\.image_embedder\.norm2\.", "img_emb.proj.4."),
    (r"^scale_shift_table$", "head.modulation"),
    (r"^proj_out\.", "head.head."),
    (r"^vocal_projector\.scale_shift_table$", "vocal_projector.final_head.modulation"),
    (r"^vocal_projector\.proj_out\.", "vocal_projector.final_head.final_proj."),
)
_TRANSFORMER_BLOCK = (
    (r"\.scale_shift_table$", ".modulation"),
    (r"\.norm2\.", ".norm3."),
    (r"\.ffn\.net\.0\.proj\.", ".ffn.0."),
    (r"\.ffn\.net\.2\.", ".ffn.2."),
    (r"\.attn1\.to_out\.0\.", ".self_attn.o."),
    (r"\.attn1\.to_(q|k|v)\.", r".self_attn.\1."),
    (r"\.attn1\.", ".self_attn."),
    (r"\.attn2\.to_out\.0\.", ".cross_attn.o."),
    (r"\.attn2\.norm_added_k\.", ".cross_attn.norm_k_img."),
    (r"\.attn2\.add_(k|v)_proj\.", r".cross_attn.\1_img."),
    (r"\.attn2\.to_(q|k|v|k_vocal|v_vocal)\.", r".cross_attn.\1."),
    (r"\.attn2\.", ".cross_attn."),
)
_ADAPTER_INPUT = ((r"^vocal_projector\.(proj|norm)_in\.", r"vocal_projector.proj_model.\1."),)
_ADAPTER_INPUT_14B = (
    (r"^vocal_projector\.(proj|norm)_in\.", r"vocal_projector.proj_model.\1_1."),
    (r"^vocal_projector\.(proj|norm)_hidden\.", r"vocal_projector.proj_model.\1_2."),
)
_RESIDUAL = (
    (r"\.norm1\.", ".residual.0."),
    (r"\.conv1\.", ".residual.2."),
    (r"\.norm2\.", ".residual.3."),
    (r"\.conv2\.", ".residual.6."),
    (r"\.conv_shortcut\.", ".shortcut."),
)
_VAE_ROOT = (
    (r"^quant_conv\.", "conv1."),
    (r"^post_quant_conv\.", "conv2."),
    (r"^(encoder|decoder)\.conv_in\.", r"\1.conv1."),
    (r"^(encoder|decoder)\.norm_out\.", r"\1.head.0."),
    (r"^(encoder|decoder)\.conv_out\.", r"\1.head.2."),
)
_UMT5_ROOT = (
    (r"^shared\.", "token_embedding."),
    (r"^encoder\.final_layer_norm\.", "norm."),
)
_UMT5_BLOCK = (
    (r"\.layer\.0\.layer_norm\.", ".norm1."),
    (r"\.layer\.1\.layer_norm\.", ".norm2."),
    (r"\.layer\.0\.SelfAttention\.relative_attention_bias\.", ".pos_embedding.embedding."),
    (r"\.layer\.0\.SelfAttention\.", ".attn."),
    (r"\.layer\.1\.DenseReluDense\.wi_0\.", ".ffn.gate.0."),
    (r"\.layer\.1\.DenseReluDense\.wi_1\.", ".ffn.fc1."),
    (r"\.layer\.1\.DenseReluDense\.wo\.", ".ffn.fc2."),
)
_CLIP_ROOT = (
    (r"^embeddings\.class_embedding$", "visual.cls_embedding"),
    (r"^embeddings\.position_embedding\.weight$", "visual.pos_embedding"),
    (r"^embeddings\.patch_embedding\.", "visual.patch_embedding."),
    (r"^pre_layrnorm\.", "visual.pre_norm."),
    (r"^post_layernorm\.", "visual.post_norm."),
)
_CLIP_BLOCK = (
    (r"\.layer_norm(1|2)\.", r".norm\1."),
    (r"\.self_attn\.(q|k|v)_proj\.", ".attn.to_qkv."),
    (r"\.self_attn\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.2."),
)

Rules = tuple[tuple[str, str], ...]


def _first(rules: Rules, name: str) -> str:
    for pattern, replacement in rules:
        renamed, count = re.subn(pattern, replacement, name, count=1)
        if count:
            return renamed
    return name


def is_audio(name: str) -> bool:
    """Return whether a parameter or module of the transformer (our name) belongs to audio: adapter, audio keys and values."""
    pieces = name.split(".")
    return pieces[0] == "vocal_projector" or "to_k_vocal" in pieces or "to_v_vocal" in pieces


def transformer_names(dims: Dims) -> Rename:
    """Return the renaming of StableAvatar transformers (1.3B: one input projection in the adapter, 14B: two)."""
    assert isinstance(dims, TransformerDims)
    root = (_ADAPTER_INPUT_14B if dims.vocal_hidden else _ADAPTER_INPUT) + _TRANSFORMER_ROOT

    def rename(name: str) -> str:
        return (
            _first(_TRANSFORMER_BLOCK, name) if re.match(r"(vocal_projector\.)?blocks\.", name) else _first(root, name)
        )

    return rename


def vae_names(dims: Dims) -> Rename:
    """Return the renaming of Wan VAEs: the released decoder is one flat list, ours has stages of residual blocks."""
    assert isinstance(dims, VaeDims)
    stage = dims.num_res_blocks + 2  # residual blocks of a decoder stage and its upsampler

    def rename(name: str) -> str:
        name = re.sub(r"\.mid_block\.resnets\.(\d+)\.", lambda m: f".middle.{2 * int(m[1])}.", name)
        name = re.sub(r"\.mid_block\.attentions\.0\.", ".middle.1.", name)
        name = re.sub(r"\.down_blocks\.", ".downsamples.", name)
        name = re.sub(
            r"\.up_blocks\.(\d+)\.resnets\.(\d+)\.", lambda m: f".upsamples.{int(m[1]) * stage + int(m[2])}.", name
        )
        name = re.sub(
            r"\.up_blocks\.(\d+)\.upsamplers\.0\.", lambda m: f".upsamples.{(int(m[1]) + 1) * stage - 1}.", name
        )
        in_block = re.search(r"\.(middle|downsamples|upsamples)\.\d+\.", name)
        return _first(_RESIDUAL, name) if in_block else _first(_VAE_ROOT, name)

    return rename


def umt5_names(_: Dims) -> Rename:
    """Return the renaming of Wan's umT5 encoder file."""

    def rename(name: str) -> str:
        name = re.sub(r"^encoder\.block\.", "blocks.", name)
        return _first(_UMT5_BLOCK if name.startswith("blocks.") else _UMT5_ROOT, name)

    return rename


def clip_names(_: Dims) -> Rename:
    """Return the renaming of Wan's CLIP file; three of our projections become one released ``to_qkv``."""

    def rename(name: str) -> str:
        name = re.sub(r"^encoder\.layers\.", "visual.transformer.", name)
        return _first(_CLIP_BLOCK if name.startswith("visual.transformer.") else _CLIP_ROOT, name)

    return rename


def wav2vec_names(_: Dims) -> Rename:
    """Return the renaming of wav2vec 2.0: released files carry the older names of weight normalisation."""

    def rename(name: str) -> str:
        name = name.replace(".parametrizations.weight.original0", ".weight_g")
        return name.replace(".parametrizations.weight.original1", ".weight_v")

    return rename
