"""Sizes of each network, as one frozen dataclass that its classes are built from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from typing import Any, Self

from avatarctl.errors import UsageError

# A recorded config describes more than sizes (seed, notes, weight names). It is recognised by its list of weights and
# taken whole; any other mapping has to name fields only, so that a misspelt size is an error.
RECORDED_CONFIG_KEY = "weights"


@dataclass(frozen=True)
class Dims:
    """Base of the dimension classes: how they are read from and written to plain mappings."""

    @classmethod
    def parse(cls, value: Self | Mapping[str, Any]) -> Self:
        """Return the dimensions for an instance, a mapping of its fields, or a whole recorded config.

        Raises ``UsageError`` when a field is unknown or missing.
        """
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise UsageError(f"dims: got {type(value).__name__}, expected {cls.__name__} or a mapping of its fields")
        names = [field.name for field in fields(cls)]
        unknown = [str(key) for key in value if key not in names]
        if unknown and RECORDED_CONFIG_KEY not in value:
            close = [
                f"{key} (did you mean {m[0]}?)" if (m := get_close_matches(key, names)) else key for key in unknown
            ]
            raise UsageError(f"dims: unknown field {', '.join(close)}", f"fields of {cls.__name__}: {', '.join(names)}")
        known = {key: tuple(v) if isinstance(v, list) else v for key, v in value.items() if key in names}
        try:
            return cls(**known)
        except TypeError as error:
            raise UsageError(f"dims: {error}", f"fields of {cls.__name__}: {', '.join(names)}") from error

    def with_(self, **changes: Any) -> Self:
        """Return a copy with some fields changed."""
        return replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them."""
        return asdict(self)


@dataclass(frozen=True)
class TransformerDims(Dims):
    """Sizes of the StableAvatar transformer; the field names are those of the golden configs."""

    dim: int  # width of the tokens
    heads: int  # self- and cross-attention heads
    layers: int  # transformer blocks
    ffn: int  # hidden width of the feed-forward
    text: int  # width of the text states (umT5)
    text_len: int  # text tokens, zero-padded to this
    clip: int  # width of the image tokens (CLIP)
    w2v: int  # width of the speech states (wav2vec 2.0)
    freq_dim: int = 256  # width of the sinusoidal time embedding
    in_dim: int = 36  # 16 noisy latents, 4 mask, 16 reference latents
    out_dim: int = 16  # predicted velocity
    patch: tuple[int, int, int] = (1, 2, 2)  # latent frames, rows, columns per token
    vocal_heads: int = 8  # heads of the audio adapter, whatever the width
    vocal_hidden: int | None = None  # the 14B layout projects speech states through this width first


@dataclass(frozen=True)
class VaeDims(Dims):
    """Sizes of the Wan VAE. ``mean`` and ``std`` normalise each latent channel."""

    base_dim: int
    z_dim: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    temporal_downsample: tuple[bool, ...] = (False, True, True)
    patch_size: int | None = None  # pixels folded into channels before the first layer
    channels: int = 3  # picture channels after that folding


@dataclass(frozen=True)
class TextDims(Dims):
    """Sizes of the umT5 text encoder."""

    vocab: int
    dim: int
    dim_attn: int
    dim_ffn: int
    heads: int
    layers: int
    buckets: int = 32
    eps: float = 1e-6
    shared_pos: bool = False  # umT5 has a position table per layer; T5's shared one is not built


@dataclass(frozen=True)
class ImageDims(Dims):
    """Sizes of the CLIP vision encoder."""

    dim: int
    heads: int
    layers: int
    out_dim: int
    image_size: int = 224
    patch: int = 14
    mlp_ratio: float = 4


@dataclass(frozen=True)
class SpeechDims(Dims):
    """Sizes of wav2vec 2.0; the field names are those of ``Wav2Vec2Config``."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    conv_dim: tuple[int, ...] = (512,) * 7
    conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_bias: bool = False
    num_conv_pos_embeddings: int = 128
    num_conv_pos_embedding_groups: int = 16
    feat_extract_norm: str = "group"
    do_stable_layer_norm: bool = False
    layer_norm_eps: float = 1e-5


# Released sizes: Wan2.1-Fun-V1.1-1.3B-InP and 14B with StableAvatar's adapter, Wan2.1 VAE, umT5-XXL, CLIP ViT-H/14,
# wav2vec2-base-960h (model cards and config.json of the released repositories).
TRANSFORMER_1_3B = TransformerDims(dim=1536, heads=12, layers=30, ffn=8960, text=4096, text_len=512, clip=1280, w2v=768)
TRANSFORMER_14B = TransformerDims(
    dim=5120, heads=40, layers=40, ffn=13824, text=4096, text_len=512, clip=1280, w2v=768, vocal_hidden=2048
)
WAN_VAE = VaeDims(
    base_dim=96,
    z_dim=16,
    mean=(
        *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
        *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
    ),
    std=(
        *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
        *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
    ),
)
UMT5_XXL = TextDims(vocab=256384, dim=4096, dim_attn=4096, dim_ffn=10240, heads=64, layers=24)
CLIP_VIT_H14 = ImageDims(dim=1280, heads=16, layers=32, out_dim=1024)
WAV2VEC2_BASE = SpeechDims()
