"""Compute the tensors of a sample with the frozen networks; each network is loaded when first needed."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avatarctl.audio.speech import speech_states
from avatarctl.networks import checkpoints
from avatarctl.networks.conditions import image_tokens, prompt_states, reference_condition
from avatarctl.networks.placement import decide
from avatarctl.networks.residency import residency_of
from avatarctl.networks.text_stream import stream_text_encoder
from avatarctl.networks.vae import encode
from avatarctl.settings.placement import PlacementSettings

MOST_PROMPTS = 4096  # kept in memory: clips of one kind have the same, captions are all different


class Encoders:
    """The frozen networks of one process: VAE, text, image and speech encoder."""

    def __init__(self, weights: Mapping[str, Path], device: str, text_len: int) -> None:
        self._weights, self._text_len = weights, text_len
        self.placement = decide(PlacementSettings(device=_own(device)))
        self._residency = residency_of(self.placement)
        self._prompts: dict[str, Tensor] = {}

    def text(self, prompt: str) -> Tensor:
        """Return the text states (L, D) of a prompt."""
        if prompt not in self._prompts:
            tokenizer, encoder = self._text_encoder
            if len(self._prompts) >= MOST_PROMPTS:
                self._prompts.clear()
            [states] = prompt_states([prompt], tokenizer, encoder, self._text_len, self.placement.device)
            self._prompts[prompt] = states.cpu()
        return self._prompts[prompt]

    @torch.no_grad()
    def pictures(self, pictures_THWC: NDArray[np.uint8]) -> dict[str, Tensor]:
        """Return latents (C, T, H, W), reference condition (4 + C, T, H, W) and image tokens (L, D) of a window."""
        pixels = torch.from_numpy(pictures_THWC).to(self.placement.device).permute(3, 0, 1, 2).float() / 255 * 2 - 1
        latents = encode(self._vae, pixels[None])
        first = pixels[:, 0].contiguous()
        return {
            "latents": latents[0],
            "condition": reference_condition(self._vae, first, latents.shape[2])[0],
            "image_tokens": image_tokens(self._image_encoder, first)[0],
        }

    def speech(self, waveform_T: NDArray[np.float32]) -> Tensor:
        """Return the speech states (L, D) of a window's sound at 16 kHz."""
        return speech_states(self._speech_encoder, waveform_T)[0]

    # -- Networks ------------------------------------------------------------------------------------------------------

    @cached_property
    def _vae(self) -> Any:
        return self._load("vae", checkpoints.load_vae)

    @cached_property
    def _image_encoder(self) -> Any:
        return self._load("image encoder", checkpoints.load_image_encoder)

    @cached_property
    def _speech_encoder(self) -> Any:
        return self._load("speech encoder", checkpoints.load_speech_encoder)

    @cached_property
    def _text_encoder(self) -> tuple[Any, Any]:
        placement = self.placement
        stored = checkpoints.load_text_encoder(self._weights["text encoder"], dtype=None)
        encoder = stream_text_encoder(stored, placement.device, placement.dtype_of("text encoder"))
        return checkpoints.load_tokenizer(self._weights["tokenizer"]), encoder

    def _load(self, role: Any, load: Any) -> Any:
        dtype = self.placement.dtype_of(role)
        return self._residency.place(load(self._weights[role], dtype=dtype, device=self._residency.load_device))


def _own(device: str) -> str:
    """Return each process of a launcher its own GPU."""
    if device != "auto" or "LOCAL_RANK" not in os.environ or not torch.cuda.is_available():
        return device
    place = int(os.environ["LOCAL_RANK"])
    if place >= torch.cuda.device_count():
        warnings.warn(f"got more processes than the {torch.cuda.device_count()} GPUs: they share them", stacklevel=2)
    return f"cuda:{place % torch.cuda.device_count()}"
