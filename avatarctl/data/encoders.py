"""Compute the tensors of a sample with the frozen networks; each network is loaded when first needed."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avatarctl.audio.speech import speech_states
from avatarctl.data.clips import Window
from avatarctl.data.shot_latents import ShotLatents
from avatarctl.networks import checkpoints
from avatarctl.networks.conditions import image_tokens, prompt_states
from avatarctl.networks.placement import decide
from avatarctl.networks.residency import residency_of
from avatarctl.networks.text_stream import stream_text_encoder
from avatarctl.networks.vae import TEMPORAL, EncodeStream, encode, encode_moments, encode_stream, normalised_mean
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
    def pictures(
        self,
        windows_BTHWC: Sequence[NDArray[np.uint8]],
        keys: Sequence[str] = (),
        encode_latents: Callable[[Tensor], Tensor] | None = None,
    ) -> list[dict[str, Tensor]]:
        """Return latents (C, T, H, W), reference latents (C, T, H, W) and image tokens (L, D) of windows of one size.

        ``keys``: latents are drawn from the posterior, by these names; else they are its mean. ``encode_latents``: how latents
        are made of pixels (B, 3, T, H, W) instead. A single picture has no reference.
        """
        pixels = self._pixels(windows_BTHWC)
        latents = encode_latents(pixels) if encode_latents is not None else self._latents(pixels, keys)
        first = pixels[:, :, :1].contiguous()
        found = [
            {"latents": own, "image_tokens": image_tokens(self._image_encoder, picture[:, 0])[0]}
            for own, picture in zip(latents, first, strict=True)
        ]
        if latents.shape[2] > 1:
            for each, reference in zip(found, self._followed_by_grey(first, latents.shape[2]), strict=True):
                each["reference"] = reference
        return found

    @torch.no_grad()
    def grey(self, size: tuple[int, int], latent_frames: int) -> Tensor:
        """Return the latents (C, T, H, W) of grey pictures of a size (width, height)."""
        width, height = size
        return self._followed_by_grey(torch.zeros(1, 3, 1, height, width, device=self.placement.device), latent_frames)[
            0
        ]

    def of_shots(self) -> ShotLatents:
        """Return what cuts the latents of windows out of those of whole shots, each picture encoded once."""

        def begin() -> Callable[[Tensor], Tensor]:
            stream = EncodeStream(self._vae)
            return lambda pixels: normalised_mean(self._vae, stream.push(pixels))

        return ShotLatents(begin)

    @torch.no_grad()
    def passed(self, latents: ShotLatents, window: Window, pictures_THWC: NDArray[np.uint8]) -> None:
        """Encode the pictures of a window that is in the cache already: those after it need them."""
        latents.of(window, self._pixels([pictures_THWC]))

    def _pixels(self, windows_BTHWC: Sequence[NDArray[np.uint8]]) -> Tensor:
        pixels = torch.stack([torch.from_numpy(window) for window in windows_BTHWC]).to(self.placement.device)
        return pixels.permute(0, 4, 1, 2, 3).float() / 255 * 2 - 1

    def _followed_by_grey(self, first_BC1HW: Tensor, latent_frames: int) -> Tensor:
        grey = first_BC1HW.new_zeros(first_BC1HW.shape).expand(-1, -1, TEMPORAL, -1, -1)
        pictures = chain([first_BC1HW], repeat(grey, latent_frames - 1))
        return torch.cat(list(encode_stream(self._vae, pictures)), dim=2)

    def _latents(self, pixels_BCTHW: Tensor, keys: Sequence[str]) -> Tensor:
        if not keys:
            return encode(self._vae, pixels_BCTHW)
        mean, log_variance = encode_moments(self._vae, pixels_BCTHW)
        seeds = [int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big") for key in keys]
        draws = [torch.randn(mean.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        std = torch.tensor(self._vae.config.latents_std, device=mean.device).view(-1, 1, 1, 1)
        deviation = torch.exp(0.5 * log_variance.float().clamp(-30, 20)) / std
        return mean + deviation * torch.stack(draws).to(mean.device)

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
