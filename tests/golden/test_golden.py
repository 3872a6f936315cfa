"""Tests with the recorded numbers of the published code: our networks reproduce them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from golden.recorded import golden_files, read, seeded_weights

from avatarctl.networks.checkpoints import load_image_encoder, load_text_encoder, load_transformer, load_vae
from avatarctl.networks.conditions import image_tokens
from avatarctl.networks.vae import decode, encode_moments

TOLERANCE = 2e-4


def assert_close(got: torch.Tensor, expected: torch.Tensor, what: str, tolerance: float = TOLERANCE) -> None:
    assert got.shape == expected.shape, f"{what}: got {tuple(got.shape)}, expected {tuple(expected.shape)}"
    difference = (got.float() - expected).abs().max().item()
    assert difference <= tolerance, f"{what}: differs by {difference:.2e}"


def padded(states: torch.Tensor, length: int) -> torch.Tensor:
    return torch.nn.functional.pad(states, (0, 0, 0, length - states.shape[0]))


@pytest.mark.parametrize("path", golden_files("transformer"), ids=lambda p: p.stem)
@torch.no_grad()
def test_transformer(path: Path) -> None:
    recorded = read(path)
    config, given = recorded.config, recorded.inputs
    model = load_transformer(seeded_weights(config["seed"], config["weights"]), dims=config)
    latents, condition, timestep = given["latents"], given["condition"], given["timestep"]
    positive = padded(given["text_positive"], config["text_len"])[None]
    negative = padded(given["text_negative"], config["text_len"])[None]
    image, audio = given["clip"], given["audio"]
    window = (config["clip_frames"] - 1) // 4 + 1

    blocks: list[torch.Tensor] = []
    hooks = [block.register_forward_hook(lambda _m, _i, out: blocks.append(out)) for block in model.blocks]
    out = model(latents, timestep, positive, image, condition, audio_states=audio)
    for hook in hooks:
        hook.remove()
    if "audio_tokens" in recorded.middle:
        assert_close(out.audio_tokens, recorded.middle["audio_tokens"], "audio tokens")
    for index, block in enumerate(blocks):
        if f"block_{index}" in recorded.middle:
            assert_close(block, recorded.middle[f"block_{index}"], f"block {index}")
    assert_close(out.sample, recorded.outputs["conditional"], "conditional")

    tokens = out.audio_tokens
    batch = model(
        latents.expand(3, -1, -1, -1, -1),
        timestep.expand(3),
        torch.cat([negative, negative, positive]),
        image,
        condition.expand(3, -1, -1, -1, -1),
        audio_tokens=torch.cat([torch.zeros_like(tokens), tokens, tokens]),
    )
    assert_close(batch.sample, recorded.outputs["guidance_batch"], "three passes in one batch")
    passes = [
        model(latents, timestep, text, image, condition, audio_states=heard).sample
        for text, heard in ((negative, None), (negative, audio), (positive, audio))
    ]
    assert_close(torch.cat(passes), recorded.outputs["guidance_batch"], "three passes one by one")

    if "partial_window" in recorded.outputs:
        short = latents[:, :, : config["partial_latent_frames"]]
        # Its audio is the same share of the states; whether rounded down or up is not recorded, so both are tried.
        share = audio.shape[1] * config["partial_latent_frames"] / window
        partial = [
            model(short, timestep, positive, image, condition, audio_states=audio[:, :states], window=window).sample
            for states in (math.floor(share), math.ceil(share))
        ]
        expected = recorded.outputs["partial_window"]
        assert_close(min(partial, key=lambda p: (p - expected).abs().max()), expected, "shorter last window")
    if "clip_level_audio" in recorded.outputs:
        level = model(latents, timestep, positive, image, condition, audio_states=audio, clip_level_audio=True)
        assert_close(level.sample, recorded.outputs["clip_level_audio"], "clip-level audio")


@pytest.mark.parametrize("path", golden_files("vae"), ids=lambda p: p.stem)
@torch.no_grad()
def test_vae(path: Path) -> None:
    recorded = read(path)
    vae = load_vae(seeded_weights(recorded.config["seed"], recorded.config["weights"]), dims=recorded.config)
    mode, logvar = encode_moments(vae, recorded.inputs["pixels"])
    assert_close(mode, recorded.outputs["latent_mode"], "latent mode")
    assert_close(logvar, recorded.outputs["latent_logvar"], "latent log-variance")
    assert_close(decode(vae, recorded.outputs["latent_mode"]), recorded.outputs["decoded"], "decoded")


@pytest.mark.parametrize("path", golden_files("clip"), ids=lambda p: p.stem)
@torch.no_grad()
def test_clip(path: Path) -> None:
    recorded = read(path)
    model = load_image_encoder(seeded_weights(recorded.config["seed"], recorded.config["weights"]), recorded.config)
    tokens = image_tokens(model, recorded.inputs["image"][:, 0])
    assert_close(tokens, recorded.outputs["tokens"], "image tokens")


@pytest.mark.parametrize("path", golden_files("text_encoder"), ids=lambda p: p.stem)
@torch.no_grad()
def test_text_encoder(path: Path) -> None:
    recorded = read(path)
    model = load_text_encoder(seeded_weights(recorded.config["seed"], recorded.config["weights"]), recorded.config)
    mask = recorded.inputs["mask"]
    states = model(input_ids=recorded.inputs["ids"], attention_mask=mask).last_hidden_state
    assert_close(states[mask.bool()], recorded.outputs["states"][mask.bool()], "text states")


def test_there_is_something_to_compare() -> None:
    assert [p for prefix in ("transformer", "vae", "clip", "text_encoder", "render") for p in golden_files(prefix)]
