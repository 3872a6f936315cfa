"""Compute the transformer's conditions: text states, image tokens and reference latents."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import chain, repeat

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor
from torch.nn import functional
from transformers import CLIPVisionModel, PreTrainedTokenizerBase, UMT5EncoderModel

from avatarctl.errors import UsageError
from avatarctl.networks.tiling import SPATIAL, Tiling
from avatarctl.networks.vae import TEMPORAL, encode_stream

# Mean and deviation of the pictures that CLIP was trained on (Radford et al. 2021, released preprocessing).
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
MASK_CHANNELS = 4  # one per picture of a latent frame


@torch.no_grad()
def prompt_states(
    prompts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    text_encoder: UMT5EncoderModel,
    text_len: int = 512,
    device: torch.device | None = None,
) -> list[Tensor]:
    """Return the umT5 states (L, D) of each prompt: its real tokens only, L at most ``text_len``.

    ``device``: where the encoder computes, when its weights are streamed there from elsewhere. The transformer pads states
    with zeros itself. A prompt that is cut warns and says what was lost.
    """
    states = []
    for prompt in prompts:
        whole = tokenizer(prompt, add_special_tokens=True, truncation=False)["input_ids"]
        if len(whole) > text_len:
            lost = tokenizer.decode(whole[text_len - 1 : -1])
            warnings.warn(
                f"prompt: got {len(whole)} tokens, expected at most {text_len}; not read: '{lost}'", stacklevel=2
            )
        # Padding to the full length before encoding, as released: the position buckets don't depend on it.
        tokens = tokenizer(
            prompt,
            padding="max_length",
            max_length=text_len,
            truncation=True,
            add_special_tokens=True,
            return_tensors="pt",
        )
        ids = tokens["input_ids"].to(device or text_encoder.device)
        mask = tokens["attention_mask"].to(device or text_encoder.device)
        encoded = text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        states.append(encoded[0, : int(mask.sum())])
    return states


@torch.no_grad()
def image_tokens(image_encoder: CLIPVisionModel, image_CHW: Tensor) -> Tensor:
    """Return the CLIP tokens (1, 257, D) of a picture (3, H, W) in [-1, 1]: the states before the last layer.

    The picture is squeezed to a square by bicubic interpolation without antialiasing, as the released code does.
    """
    _check_image(image_CHW)
    size = image_encoder.config.image_size
    square = functional.interpolate(image_CHW[None].float(), size=(size, size), mode="bicubic", align_corners=False)
    mean, std = (torch.tensor(values, device=square.device).view(1, 3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    pixels = ((square * 0.5 + 0.5) - mean) / std
    weight = image_encoder.embeddings.patch_embedding.weight
    out = image_encoder(pixel_values=pixels.to(weight.device, weight.dtype), output_hidden_states=True)
    return out.hidden_states[-2]


def reference_condition(
    vae: AutoencoderKLWan, image_CHW: Tensor, latent_frames: int, tiling: Tiling | None = None
) -> Tensor:
    """Return the reference condition (1, 4 + C, latent_frames, H / 8, W / 8) of a picture (3, H, W) in [-1, 1].

    Four mask channels, ones in the first latent frame and zeros after, then the VAE latents of the picture followed by
    mid-grey pictures. It is the same for every window.
    """
    _check_image(image_CHW)
    if latent_frames < 1:
        raise UsageError(f"reference condition: got {latent_frames} latent frames, expected at least 1")
    height, width = image_CHW.shape[1:]
    grey = image_CHW.new_zeros(1, 3, TEMPORAL, height, width)
    pictures = chain([image_CHW[None, :, None]], repeat(grey, latent_frames - 1))
    latents = torch.cat(list(encode_stream(vae, pictures, tiling)), dim=2)
    mask = latents.new_zeros(1, MASK_CHANNELS, latent_frames, height // SPATIAL, width // SPATIAL)
    mask[:, :, 0] = 1
    return torch.cat([mask, latents], dim=1)


def _check_image(image_CHW: Tensor) -> None:
    if image_CHW.ndim != 3 or image_CHW.shape[0] != 3:
        raise UsageError(f"picture: got shape {tuple(image_CHW.shape)}, expected (3, H, W)")
