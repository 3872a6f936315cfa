"""The networks of the second world: what their training sees, that it begins from weights, and what is measured of a VAE."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from avatarctl.audio.speak import RATE_HZ, Phoneme
from avatarctl.errors import ChangedError, InputFileError
from avatarctl.networks.checkpoints import load_speech_encoder, load_vae
from avatarctl.puppet.folders import TRUTH
from avatarctl.puppet.pictures import Pictures
from avatarctl.puppet.train_speech import LESSONS, MOUTH_MEAN, MOUTH_SPREAD, mouth_of, read_voices, train_speech, wanted
from avatarctl.puppet.train_vae import export_vae, open_vae, train_vae
from avatarctl.puppet.vae import DIMS
from avatarctl.puppet.vae_recipes import WORLD_2, Batch, Stage, batch_of, crop_of
from avatarctl.puppet.world2.clips import FRAMES, Scene, write_clip
from avatarctl.puppet.world2.drive import FPS
from avatarctl.puppet.world2.identity import Identity
from avatarctl.puppet.world2.vae_quality import vae_quality
from avatarctl.puppet.world2.voice import Voice
from avatarctl.training.log import read

SIZE = 32
# The same recipe at a size that tests have time for.
TINY = replace(
    WORLD_2, dims=DIMS.with_(base_dim=4, num_res_blocks=1), stages=(Stage(1.0, (Batch(5, 2, 16), Batch(1, 2))),)
)


def quiet(*_: Any, **__: Any) -> None:
    """Show nothing."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums of one thread are the same sums every time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small clips of humming faces that say m once a second."""
    folder = tmp_path_factory.mktemp("clips")
    time_s = np.arange(round(FRAMES / FPS * RATE_HZ)) / RATE_HZ
    phonemes = tuple(Phoneme(0.5 + k, 0.6 + k, "m") for k in range(3))
    for number in range(3):
        hum = 0.5 * np.sin(2 * np.pi * (140 + 30 * number) * time_s) * np.clip(np.sin(4 * time_s + number), 0, 1)
        scene = Scene.spoken(Voice(hum.astype(np.float32), phonemes), FRAMES, number)
        write_clip(folder / "square" / "speech" / f"{number:05d}", Identity.of(number), scene, SIZE)
    return folder


# -- Batches --------------------------------------------------------------------------------------------------------------


def test_first_pictures_and_what_moves_count_more(clips: Path) -> None:
    pictures = Pictures(clips)
    x, counts = batch_of(pictures, Batch(5, 2), WORLD_2, np.random.default_rng(0))
    assert x.shape == (2, 3, 5, SIZE, SIZE) and counts.shape == (2, 1, 5, SIZE, SIZE)
    assert float(counts.mean()) == pytest.approx(1, abs=1e-5)
    assert torch.allclose(counts[:, :, 0], 8 * counts[:, :, 1])
    ratio = counts[0, 0, 1].max() / counts[0, 0, 1].min()
    assert float(ratio) == pytest.approx(4)
    assert counts[0, 0, 1, 22, 16] == counts[0, 0, 1].max() == counts[0, 0, 1, 13, 11]  # mouth, an eye
    assert counts[0, 0, 1, 2, 2] == counts[0, 0, 1].min()


def test_crops_lie_within_pictures_and_half_of_them_show_a_feature(clips: Path) -> None:
    chance, hits = np.random.default_rng(0), 0
    for _ in range(400):
        rows, columns = crop_of(128, 64, ((0.5, 0.8),), chance)
        assert 0 <= rows.start < rows.stop <= 128 and rows.stop - rows.start == columns.stop - columns.start == 64
        assert rows.start % 2 == columns.start % 2 == 0
        hits += rows.start >= 40 and 12 <= columns.start <= 52
    assert 170 < hits < 330
    x, counts = batch_of(Pictures(clips), Batch(3, 2, 16), WORLD_2, np.random.default_rng(1))
    assert x.shape[-2:] == counts.shape[-2:] == (16, 16)


def test_half_of_the_batches_are_long_after_a_sixth_of_the_steps() -> None:
    frames = [WORLD_2.batch(step, 700).frames for step in range(WORLD_2.total(700))]
    assert set(frames[:117]) == {1, 5, 9}
    assert np.mean([count >= 33 for count in frames[117:700]]) == pytest.approx(0.5, abs=0.01)
    assert max(frames[700:]) == 81
    # Never one clip alone, which torch convolves by a slow path.
    assert min(WORLD_2.batch(step, 700).clips for step in range(WORLD_2.total(700))) >= 2


# -- The VAE --------------------------------------------------------------------------------------------------------------


def test_a_vae_begins_from_weights_of_half_precision(clips: Path, tmp_path: Path) -> None:
    train_vae(clips, tmp_path / "first", 3, 0, quiet, TINY)
    half = export_vae(open_vae(tmp_path / "first", TINY), Pictures(clips), tmp_path / "half.safetensors")
    assert {tensor.dtype for tensor in load_file(half).values()} == {torch.float16}
    file = train_vae(clips, tmp_path / "second", 1, 0, quiet, TINY, half, 1e-6)  # steps too small to be seen
    before, after = load_file(half), load_file(file)
    assert all(torch.allclose(before[name].float(), after[name], atol=1e-4) for name in before)
    train_vae(clips, tmp_path / "third", 3, 0, quiet, TINY, half, 1.0, 2)
    assert [line["step"] for line in read(tmp_path / "third" / "vae")] == [3]  # two are behind the weights
    with pytest.raises(ChangedError, match="'rate': 1e-06"):
        train_vae(clips, tmp_path / "second", 1, 0, quiet, TINY, half)
    with pytest.raises(InputFileError, match="got no checkpoint"):
        open_vae(tmp_path)


def test_single_pictures_leave_layers_over_time_alone(clips: Path, tmp_path: Path) -> None:
    only_first = replace(TINY, stages=(Stage(1.0, (Batch(1, 2),)),))
    half = export_vae(open_vae_of(clips, tmp_path), Pictures(clips), tmp_path / "half.safetensors")
    after = load_file(train_vae(clips, tmp_path / "run", 2, 0, quiet, only_first, half))
    before = load_file(half)
    same = [name for name in before if torch.equal(before[name].float(), after[name].half().float())]
    assert any("time_conv" in name for name in same) and not any("conv_in" in name for name in same)


def open_vae_of(clips: Path, folder: Path) -> Any:
    train_vae(clips, folder / "made", 1, 0, quiet, TINY)
    return open_vae(folder / "made", TINY)


def test_the_quality_of_a_vae_is_measured(clips: Path, tmp_path: Path) -> None:
    grey = load_vae(train_vae(clips, tmp_path, 1, 0, quiet, TINY), dtype=torch.float32, device="cpu")
    for parameter in grey.decoder.conv_out.parameters():
        torch.nn.init.zeros_(parameter)
    found = vae_quality(grey, Pictures(clips), quiet, 2)
    assert found["clips"] == 2 and found["pictures"] == FRAMES
    truth = np.stack([Pictures(clips).clip(number) for number in (0, 1)]).astype(float)
    assert found["all_db"] == pytest.approx(10 * np.log10(255**2 / ((truth - 127.5) ** 2).mean()), abs=0.1)
    assert found["saturation_first"] == 0 and set(found["by_picture_db"]) == {
        "0-0",
        "1-4",
        "5-8",
        "9-16",
        "17-32",
        "33-80",
    }


# -- The speech encoder -------------------------------------------------------------------------------------------------------


def test_states_are_taught_the_mouth_of_their_own_time(clips: Path) -> None:
    folder, samples = read_voices(clips)[0]
    mouth = mouth_of(folder, len(samples), LESSONS[2])
    truth = np.load(folder / TRUTH)
    assert mouth.shape == (len(samples) // 320, 3)
    pressed = mouth[:, 2] * MOUTH_SPREAD[2] + MOUTH_MEAN[2]
    closures = np.flatnonzero(pressed > 0.9) * 0.02
    assert np.abs(closures[:, None] - np.array([0.55, 1.55, 2.55])).min(1).max() < 0.07
    assert mouth[0, 0] == pytest.approx((truth["opening"][1] - MOUTH_MEAN[0]) / MOUTH_SPREAD[0], abs=1e-3)
    told = wanted(samples, mouth, LESSONS[2])
    assert told.shape == (len(mouth), LESSONS[2].outputs)
    offsets = LESSONS[2].offsets
    for place, offset in enumerate(offsets):
        part = told[:, 3 * place : 3 * place + 3]
        inside = slice(max(0, -offset), len(mouth) - max(0, offset))
        moved = slice(max(0, offset), len(mouth) - max(0, -offset))
        assert np.array_equal(part[inside], mouth[moved])
        assert np.isnan(part).any() == (offset != 0)


@pytest.mark.parametrize("steps", [1, 40])
def test_the_speech_encoder_learns_the_mouth(clips: Path, tmp_path: Path, steps: int) -> None:
    path, share = train_speech(clips, tmp_path, steps, 0, quiet, LESSONS[2])
    load_speech_encoder(path)
    assert share > 0.1 or steps == 1
