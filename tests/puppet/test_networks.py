"""Tests with drawn clips: the puppet's networks are those of the full model, learn, and resume to the bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from avatarctl.audio.speech import normalise
from avatarctl.errors import ChangedError, InputFileError
from avatarctl.networks import vae
from avatarctl.networks.checkpoints import (
    load_image_encoder,
    load_speech_encoder,
    load_text_encoder,
    load_tokenizer,
    load_vae,
)
from avatarctl.networks.conditions import image_tokens, prompt_states
from avatarctl.progress import Progress
from avatarctl.puppet import train_vae as puppet_vae
from avatarctl.puppet.encoders import TEXT_LEN, write_encoders
from avatarctl.puppet.folders import TRUTH
from avatarctl.puppet.pictures import Pictures, to_tensor
from avatarctl.puppet.train_speech import read_voices, train_speech
from avatarctl.puppet.train_vae import train_decoder, train_vae
from avatarctl.puppet.vae import DIMS, at_once, decode_at_once, encode_at_once, new_vae
from avatarctl.puppet.vae_recipes import RECIPE, Batch, Stage
from avatarctl.settings.render import RenderSettings
from avatarctl.training.log import read

# The recipe at a size that tests have time for.
TINY = replace(
    RECIPE, dims=DIMS.with_(base_dim=4), stages=(Stage(0.6, (Batch(5, 2, 16), Batch(1, 2))), Stage(1.0, (Batch(9, 2),)))
)
pytestmark = pytest.mark.usefixtures("one_thread")


def quiet(*_: Any, **__: Any) -> None:
    """Show nothing."""


@torch.no_grad()
def test_whole_clips_at_once_are_what_the_stream_gives() -> None:
    model = new_vae(0)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():  # some begin at zero, which would hide mistakes
        parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    pictures = torch.rand(1, 3, 17, 64, 64, generator=generator) * 2 - 1
    mean, _ = encode_at_once(model, pictures)
    torch.testing.assert_close(mean, model.encode(pictures).latent_dist.mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        decode_at_once(model, mean).clamp(-1, 1), model.decode(mean).sample, rtol=1e-4, atol=1e-4
    )
    still = pictures[:, :, :1]
    torch.testing.assert_close(
        encode_at_once(at_once(model), still)[0], model.encode(still).latent_dist.mean, rtol=1e-4, atol=1e-4
    )


def test_the_vae_learns_and_resumes_to_the_bit(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = train_vae(clips, tmp_path / "straight", 6, 0, quiet, TINY)

    def stop_at(step: int) -> Progress:
        def show(done: int, total: int, **_: Any) -> None:
            if done == step:
                raise KeyboardInterrupt

        return show

    monkeypatch.setattr(puppet_vae, "SAVE_EVERY_S", 0.0)
    for step in (2, 4):
        with pytest.raises(KeyboardInterrupt):
            train_vae(clips, tmp_path / "stopped", 6, 0, stop_at(step), TINY)
    stopped = train_vae(clips, tmp_path / "stopped", 6, 0, quiet, TINY)
    assert [line["step"] for line in read(tmp_path / "stopped" / "vae")] == [1, 2, 3, 4, 5, 6]
    first, second = load_file(straight), load_file(stopped)
    assert all(torch.equal(first[name], second[name]) for name in first)
    model = load_vae(straight)
    pictures = Pictures(clips)
    latents = vae.encode(model, to_tensor(np.stack([pictures.stretch(clip, 0, 9) for clip in (0, 1)])))
    assert latents.shape == (2, 16, 3, 4, 4)
    assert 0.3 < float(latents.std()) < 3  # its configuration has the statistics
    assert (tmp_path / "straight" / "vae" / "pictures.png").read_bytes().startswith(b"\x89PNG")


def test_the_decoder_learns_looks_and_leaves_latents_alone(clips: Path, tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="got no trained VAE"):
        train_decoder(clips, clips, tmp_path, 1, 0, quiet, TINY)
    before = load_file(train_vae(clips, tmp_path, 2, 0, quiet, TINY))
    after = load_file(train_decoder(clips, clips, tmp_path, 3, 0, quiet, TINY))
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert all(name in same for name in before if name.startswith(("encoder.", "quant_conv.")))
    assert sum(name not in same for name in before) > 20
    again = load_file(train_decoder(clips, clips, tmp_path, 3, 0, quiet, TINY))  # done already
    assert all(torch.equal(after[name], again[name]) for name in after)


def test_a_run_of_other_steps_is_refused(clips: Path, tmp_path: Path) -> None:
    train_vae(clips, tmp_path, 1, 0, quiet, TINY)
    with pytest.raises(ChangedError, match="'total': 1"):
        train_vae(clips, tmp_path, 2, 0, quiet, TINY)


@pytest.mark.long
def test_the_vae_rebuilds_better_with_time(clips: Path, tmp_path: Path) -> None:
    losses: list[float] = []

    def note(done: int, total: int, **facts: float) -> None:
        losses.append(facts["loss"])
        if done == 60:  # of 400, so that all are of the first, short clips
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_vae(clips, tmp_path, 400, 0, note, TINY)
    assert sum(losses[50:]) < 0.8 * sum(losses[:10])


def test_the_speech_encoder_hears_what_drives_the_mouth(clips: Path, tmp_path: Path) -> None:
    path, share = train_speech(clips, tmp_path, 60, 0, quiet)
    assert share > 0.1
    folders, voices = zip(*read_voices(clips), strict=True)
    openings = [np.load(folder / TRUTH)["opening"] for folder in folders]
    assert told_by_states(load_speech_encoder(path), voices, openings) > 0.4  # fitted on two voices


def told_by_states(encoder: Any, voices: Sequence[np.ndarray], openings: Sequence[np.ndarray]) -> float:
    """Return the correlation of a linear reading of the states with the mouth's opening, on voices it was not fitted on."""
    rows, openings_of = [], []
    with torch.no_grad():
        for voice, opening in zip(voices, openings, strict=True):
            states = encoder(torch.from_numpy(normalise(voice))[None]).last_hidden_state[0].numpy()
            places = [min(int((frame + 0.5) * 2), len(states) - 1) for frame in range(len(opening))]
            rows.append(
                np.concatenate(
                    [states[np.clip(np.array(places) + o, 0, len(states) - 1)] for o in (-8, -4, 0, 4, 8)], axis=1
                )
            )
            openings_of.append(opening)
    fit = [i for i in range(len(rows)) if i % 3]
    x = np.concatenate([rows[i] for i in fit])
    y = np.concatenate([openings_of[i] for i in fit])
    weights = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=None)[0]
    told = np.concatenate([np.c_[rows[i], np.ones(len(rows[i]))] @ weights for i in range(0, len(rows), 3)])
    return float(np.corrcoef(told, np.concatenate([openings_of[i] for i in range(0, len(rows), 3)]))[0, 1])


def test_fixed_encoders_tell_prompts_and_pictures_apart(tmp_path: Path) -> None:
    write_encoders(tmp_path, 0)
    tokenizer, text = load_tokenizer(tmp_path / "tokenizer"), load_text_encoder(tmp_path / "text_encoder.safetensors")
    settings = RenderSettings()
    prompts = [settings.prompt, settings.negative_prompt, "Grüße, 你好 🎵"]
    states = prompt_states(prompts, tokenizer, text, TEXT_LEN)
    assert all(1 < len(each) <= TEXT_LEN for each in states)
    assert all(0.5 < float(each.std()) < 2 for each in states)
    assert not torch.allclose(states[0].mean(0), states[1].mean(0), atol=0.05)
    assert tokenizer.decode(tokenizer(prompts[2])["input_ids"]).strip().removesuffix("</s>") == prompts[2]
    image = load_image_encoder(tmp_path / "image_encoder.safetensors")
    first, second = (image_tokens(image, torch.full((3, 64, 64), value)) for value in (-0.5, 0.5))
    assert first.shape == (1, 17, 64)
    assert not torch.allclose(first, second, atol=0.05)


def test_no_clips_are_told(tmp_path: Path) -> None:
    for train in (train_vae, train_speech):
        with pytest.raises(InputFileError, match="got no drawn clips"):
            train(tmp_path, tmp_path, 1, 0, quiet)
