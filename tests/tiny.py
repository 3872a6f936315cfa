"""Test helper: tiny networks of the real classes with random weights, and inputs for them (from a seed)."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from avatarctl.networks import checkpoints, kinds
from avatarctl.networks.dims import WAN_VAE, ImageDims, SpeechDims, TextDims, TransformerDims
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
    """Return the arguments of the transformer's forward, audio states included."""
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
    """Return a Wan VAE 8 channels wide: the released layout, or three levels with pixels folded two by two."""
    dims = WAN_VAE.with_(base_dim=8)
    if folded:
        dims = dims.with_(dim_mult=(1, 2, 4), temporal_downsample=(True, True), patch_size=2, channels=12)
    model = build_vae(dims).eval()
    randomise(model, seed)
    return model.requires_grad_(False)


WORDS = {"<pad>": 0, "</s>": 1, "<unk>": 2, "A": 3, "person": 4, "is": 5, "talking": 6, ".": 7}


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of a handful of words that ends every prompt as umT5's does."""
    raw = Tokenizer(models.WordLevel(WORDS, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def tiny_weights(folder: Path) -> Path:
    """Write a folder of weights of every network, all tiny and random: what `--weights` takes."""
    dims = TINY.with_(text_len=16)
    text = TextDims(vocab=len(WORDS), dim=dims.text, dim_attn=24, dim_ffn=32, heads=2, layers=1)
    image = ImageDims(dim=dims.clip, heads=2, layers=2, out_dim=8, image_size=28, patch=14, mlp_ratio=2)
    speech = SpeechDims(
        hidden_size=dims.w2v,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        conv_dim=(8,) * 7,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
    )
    built = {
        "transformer": tiny_transformer(dims),
        "vae": tiny_vae(folded=True),
        "text_encoder": kinds.build_text_encoder(text),
        "image_encoder": kinds.build_image_encoder(image),
        "speech_encoder": kinds.build_speech_encoder(speech),
    }
    for seed, (name, model) in enumerate(built.items()):
        randomise(model, seed)
        checkpoints.save_weights(model, folder / f"{name}.safetensors", names="ours")
    tiny_tokenizer().save_pretrained(folder / "tokenizer")
    return folder
