"""Make the puppet's fixed text and image encoders and its tokenizer, of the full model's classes, from a seed."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import PreTrainedTokenizerFast

from avatarctl.networks.checkpoints import save_weights
from avatarctl.networks.dims import ImageDims, TextDims
from avatarctl.networks.kinds import build_image_encoder, build_text_encoder
from avatarctl.settings.encode import EncodeSettings
from avatarctl.settings.render import RenderSettings
from avatarctl.training.draws import seed_of

VOCAB, TEXT_LEN = 512, 64
TEXT = TextDims(vocab=VOCAB, dim=64, dim_attn=64, dim_ffn=128, heads=4, layers=2)
IMAGE = ImageDims(dim=64, heads=4, layers=2, out_dim=32, image_size=64, patch=16, mlp_ratio=2)
# What the tokenizer learns its pieces from; whatever else is written, it spells by bytes.
SENTENCES = (
    "A person is talking to the camera, a man or a woman who speaks or sings in front of a plain wall.",
    "The portrait shows the face and shoulders, the lips move with the voice, the eyes blink now and then.",
    "She is singing a song, he is telling a story, they are dancing and laughing with open mouth.",
)


def write_encoders(output: Path, seed: int) -> list[Path]:
    """Write ``text_encoder.safetensors``, ``image_encoder.safetensors`` and ``tokenizer/``; return their paths."""
    networks: dict[str, nn.Module] = {
        "text_encoder": build_text_encoder(TEXT),
        "image_encoder": build_image_encoder(IMAGE),
    }
    paths = []
    for name, model in networks.items():
        randomise(model, seed_of(seed, name))
        paths.append(save_weights(model, output / f"{name}.safetensors", names="ours"))
    make_tokenizer().save_pretrained(output / "tokenizer")
    return [*paths, output / "tokenizer"]


def randomise(model: nn.Module, seed: int) -> None:
    """Fill weights with random numbers that keep the size of what goes through: a fixed, spread-out code of its input."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        if parameter.ndim > 1:
            parameter.data = torch.randn(parameter.shape, generator=generator) * parameter[0].numel() ** -0.5
        else:
            parameter.data = torch.ones_like(parameter) if name.endswith("weight") else torch.zeros_like(parameter)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of byte pairs that reads any text and ends it with ``</s>``, as umT5's does."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=["<pad>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    render, encode = RenderSettings(), EncodeSettings()
    prompts = (
        render.prompt,
        render.negative_prompt,
        encode.prompt_speech,
        encode.prompt_singing,
        encode.prompt_dancing,
    )
    raw.train_from_iterator([*SENTENCES, *prompts], trainer)
    raw.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="</s>")
