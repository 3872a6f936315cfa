"""Show that a render whose numbers leave what can be shown ends with an error that names where, and keeps nothing of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from workshop import Case

KEY = "diffusion_model.blocks.0.self_attn.o.lora"  # its outputs aren't normalised


def spoil(studio: Path, folder: Path, file: str, part: str, value: float = float("nan")) -> Path:
    """Return a copy of the weights with one number of the first tensor that is named like ``part`` replaced."""
    weights = folder / "weights"
    shutil.copytree(studio / "weights", weights)
    with safe_open(weights / file, "pt") as stored:
        tensors, metadata = {name: stored.get_tensor(name) for name in stored.keys()}, stored.metadata()
    name = next(name for name in sorted(tensors) if part in name)
    tensors[name].flatten()[0] = value
    save_file(tensors, weights / file, metadata)
    return weights


@pytest.mark.parametrize("how", [(), ("--checkpoint-every", "3600")])
def test_a_transformer_with_nan(case: Case, studio: Path, how: tuple[str, ...]) -> None:
    """With a checkpoint after each step it is seen at the first one, else when the first window is final."""
    weights = spoil(studio, case.folder, "transformer.safetensors", "blocks.0.attn1.to_q.weight")
    done = case.generate("--weights", str(weights), *how)
    assert done.status == 5, done.log
    assert "window 1 of 3 (0:00 to 0:00 of the video): the transformer computed NaN" in done.log
    assert "dtype auto" in done.log and "transformer.safetensors: avatarctl fetch --verify" in done.log
    assert not case.output.exists() and not case.render.exists()


def test_a_lora_that_is_too_strong(case: Case, studio: Path) -> None:
    lora = case.folder / "strong.safetensors"
    save_file({f"{KEY}_A.weight": torch.full((2, 48), 1e18), f"{KEY}_B.weight": torch.full((48, 2), 1e18)}, lora)
    done = case.generate("--lora", str(lora))
    assert done.status == 5 and f"with the LoRA {lora} (1 times), dtype auto" in done.log, done.log
    assert f"--lora {lora}:0.5" in done.log and not case.output.exists() and not case.render.exists()


def test_a_decoder_with_nan(case: Case, studio: Path) -> None:
    weights = spoil(studio, case.folder, "vae.safetensors", "decoder.conv_out.weight")
    done = case.generate("--weights", str(weights))
    assert done.status == 5 and "segment 0: the VAE decoded NaN" in done.log, done.log
    assert not case.output.exists() and not list((case.render / "segments").glob("*.mp4"))


@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("text_encoder.safetensors", "block.0.layer.1.DenseReluDense.wo"),
        ("image_encoder.safetensors", "encoder.layers.0.mlp.fc1.weight"),
        ("speech_encoder.safetensors", "encoder.layers.0.final_layer_norm"),
        ("vae.safetensors", "encoder.conv_in.weight"),
    ],
)
def test_networks_that_make_the_conditions(case: Case, studio: Path, file: str, part: str) -> None:
    weights = spoil(studio, case.folder, file, part)
    done = case.generate("--weights", str(weights), "--prompt", f"a person, {file}")
    assert done.status == 5 and f"{weights / file}: this network computed NaN" in done.log, done.log
    assert not case.output.exists() and not case.render.exists()
    again = case.generate("--weights", str(weights), "--prompt", f"a person, {file}")  # nothing broken was cached
    assert again.status == 5 and f"{weights / file}: this network computed NaN" in again.log


@pytest.mark.parametrize(
    ("content", "words", "hint"),
    [
        (b"", "an empty file, expected the vae", "avatarctl fetch"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "a pointer of git-lfs", "lfs pull"),
        (b"<html>", "a web page", "download the file itself"),
        (b"PK\x03\x04" + b"\0" * 99, "a pickle of torch", "rename it"),
        (None, "truncated", "avatarctl fetch"),
    ],
)
@pytest.mark.parametrize("dry", [("--dry-run",), ()])
def test_weights_that_can_not_be_right(
    new_case: Callable[..., Case], studio: Path, content: bytes | None, words: str, hint: str, dry: tuple[str, ...]
) -> None:
    case = new_case()
    weights = case.folder / "weights"
    shutil.copytree(studio / "weights", weights)
    whole = (weights / "vae.safetensors").read_bytes()
    (weights / "vae.safetensors").write_bytes(whole[:-9] if content is None else content)
    done = case.generate("--weights", str(weights), *dry)
    assert done.status == 5 and f"{weights / 'vae.safetensors'}: got" in done.log and words in done.log, done.log
    assert hint in done.log and not case.render.exists()


@pytest.mark.parametrize("dry", [("--dry-run",), ()])
def test_loras_that_can_not_be_right(case: Case, dry: tuple[str, ...]) -> None:
    lora = case.folder / "nan.safetensors"
    save_file({f"{KEY}_A.weight": torch.full((2, 48), float("inf")), f"{KEY}_B.weight": torch.ones(48, 2)}, lora)
    done = case.generate("--lora", str(lora), *dry)
    assert done.status == 5 and f"{lora}: 1 tensor holds NaN or infinite numbers" in done.log, done.log
    lora.write_bytes(b"<!DOCTYPE html>")
    done = case.generate("--lora", str(lora), *dry)
    assert done.status == 5 and f"{lora}: got a web page" in done.log and "released" not in done.log, done.log
    assert not case.render.exists()
