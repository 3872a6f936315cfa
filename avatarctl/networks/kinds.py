"""The five kinds of networks: how each is built from dimensions and recognised by the shapes of stored weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from diffusers import AutoencoderKLWan
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel, Wav2Vec2Config, Wav2Vec2Model

from avatarctl.errors import UsageError, WeightsError
from avatarctl.networks import dims as sizes
from avatarctl.networks import names as naming
from avatarctl.networks.dims import Dims, ImageDims, SpeechDims, TextDims, TransformerDims, VaeDims
from avatarctl.networks.small_clips import quicken
from avatarctl.networks.transformer import StableAvatarTransformer3DModel

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Network:
    """How one kind of network is built, named and recognised."""

    kind: str
    dims: type[Dims]
    build: Callable[[Any], nn.Module]
    names: Callable[[Dims], naming.Rename]
    # Released shapes -> dims, where they can be read off; raises KeyError when a telling name is missing.
    infer: Callable[[Shapes], Dims]
    # Names that the released files carry and the network does not use.
    unused: str = r"(?!)"
    # What other programs put before our names.
    prefix: str = ""


# -- Building: sizes to empty networks ------------------------------------------------------------------------------


def build_transformer(dims: TransformerDims) -> StableAvatarTransformer3DModel:
    """Build the StableAvatar transformer of these sizes."""
    return StableAvatarTransformer3DModel.from_dims(dims)


def build_vae(dims: VaeDims) -> AutoencoderKLWan:
    """Build the Wan VAE of these sizes."""
    vae = AutoencoderKLWan(
        base_dim=dims.base_dim,
        z_dim=dims.z_dim,
        dim_mult=list(dims.dim_mult),
        num_res_blocks=dims.num_res_blocks,
        temperal_downsample=list(dims.temporal_downsample),
        latents_mean=list(dims.mean),
        latents_std=list(dims.std),
        in_channels=dims.channels,
        out_channels=dims.channels,
        patch_size=dims.patch_size,
        scale_factor_spatial=2 ** (len(dims.dim_mult) - 1) * (dims.patch_size or 1),
        scale_factor_temporal=2 ** sum(dims.temporal_downsample),
    )
    quicken(vae)
    return vae


def build_text_encoder(dims: TextDims) -> UMT5EncoderModel:
    """Build the umT5 encoder of these sizes."""
    if dims.shared_pos:
        raise UsageError("dims: got shared_pos, expected a position table per layer (umT5)")
    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=dims.vocab,
            d_model=dims.dim,
            d_kv=dims.dim_attn // dims.heads,
            d_ff=dims.dim_ffn,
            num_layers=dims.layers,
            num_heads=dims.heads,
            relative_attention_num_buckets=dims.buckets,
            layer_norm_epsilon=dims.eps,
            feed_forward_proj="gated-gelu",
        )
    )


def build_image_encoder(dims: ImageDims) -> CLIPVisionModel:
    """Build the CLIP vision encoder of these sizes."""
    return CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=dims.dim,
            intermediate_size=int(dims.dim * dims.mlp_ratio),
            num_hidden_layers=dims.layers,
            num_attention_heads=dims.heads,
            image_size=dims.image_size,
            patch_size=dims.patch,
            projection_dim=dims.out_dim,
            hidden_act="gelu",
        )
    )


def build_speech_encoder(dims: SpeechDims) -> Wav2Vec2Model:
    """Build wav2vec 2.0 of these sizes; masking, which only its own training needs, is off."""
    return Wav2Vec2Model(
        Wav2Vec2Config(
            **dims.to_json(),
            num_feat_extract_layers=len(dims.conv_dim),
            apply_spec_augment=False,
            mask_time_prob=0.0,
            mask_feature_prob=0.0,
        )
    )


# -- Recognising: released shapes to sizes --------------------------------------------------------------------------


def _count(shapes: Shapes, pattern: str) -> int:
    return len({m[1] for name in shapes if (m := re.match(pattern, name))})


def _infer_transformer(shapes: Shapes) -> TransformerDims:
    """Read the sizes off released names, or those of diffusers; audio layers that are absent are those of the released sizes."""
    if "condition_embedder.time_embedder.linear_1.weight" in shapes:  # our names: diffusers' where both have a layer
        two = "vocal_projector.proj_hidden.weight" in shapes
        rename = naming.transformer_names(sizes.TRANSFORMER_14B if two else sizes.TRANSFORMER_1_3B)
        shapes = {rename(name): shape for name, shape in shapes.items()}
    dim, in_dim, *patch = shapes["patch_embedding.weight"]
    if dim % 128:
        raise WeightsError(
            f"transformer: got width {dim}, from which the number of heads can't be told", "pass dims with `heads`"
        )
    adapter_in = "vocal_projector.proj_model.proj"
    if any(name.startswith("vocal_projector.") for name in shapes):
        hidden = shapes[f"{adapter_in}_1.weight"][0] if f"{adapter_in}_1.weight" in shapes else None
        w2v = shapes[f"{adapter_in}_1.weight" if hidden else f"{adapter_in}.weight"][1]
    else:  # Wan2.1
        large = sizes.TRANSFORMER_14B
        hidden, w2v = large.vocal_hidden if dim == large.dim else None, large.w2v
    return TransformerDims(
        dim=dim,
        heads=dim // 128,  # both released layouts have heads of 128
        layers=_count(shapes, r"blocks\.(\d+)\."),
        ffn=shapes["blocks.0.ffn.0.weight"][0],
        text=shapes["text_embedding.0.weight"][1],
        text_len=512,
        clip=shapes["img_emb.proj.1.weight"][0],
        w2v=w2v,
        freq_dim=shapes["time_embedding.0.weight"][1],
        in_dim=in_dim,
        out_dim=shapes["head.head.weight"][0] // (patch[0] * patch[1] * patch[2]),
        patch=(patch[0], patch[1], patch[2]),
        vocal_hidden=hidden,
    )


def _infer_vae(shapes: Shapes) -> VaeDims:
    return sizes.WAN_VAE.with_(base_dim=shapes["decoder.head.0.gamma"][0], z_dim=shapes["conv2.weight"][0])


def _infer_text(shapes: Shapes) -> TextDims:
    buckets, heads = shapes["blocks.0.pos_embedding.embedding.weight"]
    vocab, dim = shapes["token_embedding.weight"]
    return TextDims(
        vocab=vocab,
        dim=dim,
        dim_attn=shapes["blocks.0.attn.q.weight"][0],
        dim_ffn=shapes["blocks.0.ffn.fc1.weight"][0],
        heads=heads,
        layers=_count(shapes, r"blocks\.(\d+)\."),
        buckets=buckets,
    )


def _infer_image(shapes: Shapes) -> ImageDims:
    dim, _, patch, _ = shapes["visual.patch_embedding.weight"]
    if dim != sizes.CLIP_VIT_H14.dim:
        raise WeightsError(
            f"image encoder: got width {dim}, from which the number of heads can't be told", "pass dims with `heads`"
        )
    return sizes.CLIP_VIT_H14.with_(layers=_count(shapes, r"visual\.transformer\.(\d+)\."), patch=patch)


def _infer_speech(shapes: Shapes) -> SpeechDims:
    return sizes.WAV2VEC2_BASE.with_(num_hidden_layers=_count(shapes, r"encoder\.layers\.(\d+)\."))


TRANSFORMER = Network("transformer", TransformerDims, build_transformer, naming.transformer_names, _infer_transformer)
VAE = Network("vae", VaeDims, build_vae, naming.vae_names, _infer_vae)
TEXT_ENCODER = Network("text encoder", TextDims, build_text_encoder, naming.umt5_names, _infer_text)
IMAGE_ENCODER = Network(
    "image encoder",
    ImageDims,
    build_image_encoder,
    naming.clip_names,
    _infer_image,
    # The text half of the CLIP file, and the projection into the space shared with it.
    unused=r"(visual\.head|log_scale|textual\..*)$",
)
SPEECH_ENCODER = Network(
    "speech encoder",
    SpeechDims,
    build_speech_encoder,
    naming.wav2vec_names,
    _infer_speech,
    # Heads for transcription and pre-training, and the embedding that masks spans in training.
    unused=r"(lm_head|quantizer|project_q|project_hid)\..*|masked_spec_embed$",
    prefix="wav2vec2.",
)
NETWORKS = (TRANSFORMER, VAE, TEXT_ENCODER, IMAGE_ENCODER, SPEECH_ENCODER)


def dims_of(model: nn.Module) -> Dims:
    """Return the sizes of a loaded network."""
    c: Any = model.config
    if isinstance(model, StableAvatarTransformer3DModel):
        return model.dims
    if isinstance(model, AutoencoderKLWan):
        return VaeDims(
            base_dim=c.base_dim,
            z_dim=c.z_dim,
            mean=tuple(c.latents_mean),
            std=tuple(c.latents_std),
            dim_mult=tuple(c.dim_mult),
            num_res_blocks=c.num_res_blocks,
            temporal_downsample=tuple(c.temperal_downsample),
            patch_size=c.patch_size,
            channels=c.in_channels,
        )
    if isinstance(model, UMT5EncoderModel):
        return TextDims(
            vocab=c.vocab_size,
            dim=c.d_model,
            dim_attn=c.d_kv * c.num_heads,
            dim_ffn=c.d_ff,
            heads=c.num_heads,
            layers=c.num_layers,
            buckets=c.relative_attention_num_buckets,
            eps=c.layer_norm_epsilon,
        )
    if isinstance(model, CLIPVisionModel):
        return ImageDims(
            dim=c.hidden_size,
            heads=c.num_attention_heads,
            layers=c.num_hidden_layers,
            out_dim=c.projection_dim,
            image_size=c.image_size,
            patch=c.patch_size,
            mlp_ratio=c.intermediate_size / c.hidden_size,
        )
    if isinstance(model, Wav2Vec2Model):
        return SpeechDims.parse({name: getattr(c, name) for name in SpeechDims.__dataclass_fields__})
    raise UsageError(f"save: got {type(model).__name__}, expected one of {', '.join(n.kind for n in NETWORKS)}")


# What a set of names looks like, most telling first.
_LOOKS = (
    (r"vocal_projector\.", "a StableAvatar transformer"),
    (r".*lora_(down|A|up|B)\b", "a LoRA, not a whole network"),
    (r"blocks\.0\.cross_attn\.k_img\.", f"Wan {naming.NO_ADAPTER}"),
    (r"blocks\.0\.self_attn\.", "Wan text-to-video weights: no audio adapter"),
    (r"condition_embedder\.image_embedder\.", f"diffusers' Wan {naming.NO_ADAPTER}"),
    (r"condition_embedder\.", "a Wan text-to-video transformer of diffusers: no audio adapter"),
    (r"(encoder\.downsamples|decoder\.upsamples)\.", "a Wan VAE"),
    (r"(encoder\.down_blocks|decoder\.up_blocks)\.", "a VAE of diffusers"),
    (r"visual\.transformer\.", "Wan's CLIP image encoder"),
    (r"(vision_model\.)?encoder\.layers\.0\.self_attn\.", "a CLIP image encoder of transformers"),
    (r"blocks\.0\.pos_embedding\.", "Wan's umT5 text encoder"),
    (r"encoder\.block\.0\.layer\.", "a T5 text encoder of transformers"),
    (r"(wav2vec2\.)?feature_extractor\.conv_layers\.", "wav2vec 2.0"),
    (r"(model\.)?(transformer|diffusion_model|module|model)\.", "weights of a wrapped training model"),
)


def looks_like(names: Mapping[str, Any]) -> str:
    """Say in words what network the names belong to."""
    for pattern, words in _LOOKS:
        if any(re.match(pattern, name) for name in names):
            return words
    return f"unknown weights ({', '.join(list(names)[:3])} …)"
