"""What the training of VAE and speech encoder sees, that it begins from weights, and what is measured of a VAE."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from avatarctl.errors import ChangedError, InputFileError
from avatarctl.networks.checkpoints import load_speech_encoder, load_vae
from avatarctl.puppet.folders import TRUTH
from avatarctl.puppet.pictures import Pictures
from avatarctl.puppet.train_speech import LESSON, MOUTH_MEAN, MOUTH_SPREAD, mouth_of, read_voices, train_speech, wanted
from avatarctl.puppet.train_vae import _drawn, export_vae, open_vae, train_vae
from avatarctl.puppet.vae import DIMS
from avatarctl.puppet.vae_recipes import RECIPE, Batch, Stage, batch_of, crop_of
from avatarctl.puppet.world.clips import FRAMES
from avatarctl.puppet.world.vae_quality import vae_quality
from avatarctl.training.log import read

SIZE = 32
pytestmark = pytest.mark.usefixtures("one_thread")
# The same recipe at a size that tests have time for.
TINY = replace(RECIPE, dims=DIMS.with_(base_dim=4), stages=(Stage(1.0, (Batch(5, 2, 16), Batch(1, 2))),))


def quiet(*_: Any, **__: Any) -> None:
    """Show nothing."""


# -- Batches --------------------------------------------------------------------------------------------------------------


def test_first_pictures_and_what_moves_count_more(clips: Path) -> None:
    pictures = Pictures(clips)
    x, counts = batch_of(pictures, Batch(5, 2), RECIPE, np.random.default_rng(0))
    assert x.shape == (2, 3, 5, SIZE, SIZE) and counts.shape == (2, 1, 5, SIZE, SIZE)
    assert float(counts.mean()) == pytest.approx(1, abs=1e-5)
    assert torch.allclose(counts[:, :, 0], 8 * counts[:, :, 1])
    times = counts[0, 0, 1] / counts[0, 0, 1].min()
    mouth, iris, wall = float(times[22, 16]), float(times[13, 11]), float(times[2, 2])
    assert (mouth, iris, wall) == pytest.approx((RECIPE.region_weight, RECIPE.iris_weight, 1))


def test_crops_lie_within_pictures_and_half_of_them_show_a_feature(clips: Path) -> None:
    chance, hits = np.random.default_rng(0), 0
    for _ in range(400):
        rows, columns = crop_of(128, 64, ((0.5, 0.8),), chance)
        assert 0 <= rows.start < rows.stop <= 128 and rows.stop - rows.start == columns.stop - columns.start == 64
        assert rows.start % 2 == columns.start % 2 == 0
        hits += rows.start >= 40 and 12 <= columns.start <= 52
    assert 170 < hits < 330
    x, counts = batch_of(Pictures(clips), Batch(3, 2, 16), RECIPE, np.random.default_rng(1))
    assert x.shape[-2:] == counts.shape[-2:] == (16, 16)


def test_half_of_the_batches_are_long_after_a_sixth_of_the_steps() -> None:
    frames = [RECIPE.batch(step, 700).frames for step in range(RECIPE.total(700))]
    assert set(frames[:117]) == {1, 5, 9}
    assert np.mean([count >= 33 for count in frames[117:700]]) == pytest.approx(0.5, abs=0.01)
    assert max(frames[700:]) == 81
    # Never one clip alone, which torch convolves by a slow path.
    assert min(RECIPE.batch(step, 700).clips for step in range(RECIPE.total(700))) >= 2


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
    mouth = mouth_of(folder, len(samples))
    truth = np.load(folder / TRUTH)
    assert mouth.shape == (len(samples) // 320, 3)
    pressed = mouth[:, 2] * MOUTH_SPREAD[2] + MOUTH_MEAN[2]
    closures = np.flatnonzero(pressed > 0.9) * 0.02
    assert np.abs(closures[:, None] - np.array([0.55, 1.55, 2.55])).min(1).max() < 0.07
    assert mouth[0, 0] == pytest.approx((truth["opening"][1] - MOUTH_MEAN[0]) / MOUTH_SPREAD[0], abs=1e-3)
    told = wanted(samples, mouth, LESSON)
    assert told.shape == (len(mouth), LESSON.outputs)
    offsets = LESSON.offsets
    for place, offset in enumerate(offsets):
        part = told[:, 3 * place : 3 * place + 3]
        inside = slice(max(0, -offset), len(mouth) - max(0, offset))
        moved = slice(max(0, offset), len(mouth) - max(0, -offset))
        assert np.array_equal(part[inside], mouth[moved])
        assert np.isnan(part).any() == (offset != 0)


@pytest.mark.parametrize("steps", [1, 40])
def test_the_speech_encoder_learns_the_mouth(clips: Path, tmp_path: Path, steps: int) -> None:
    path, share = train_speech(clips, tmp_path, steps, 0, quiet)
    load_speech_encoder(path)
    assert share > 0.1 or steps == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_trains_the_vae_as_the_cpu_does(clips: Path, tmp_path: Path) -> None:
    """Threads read its batches ahead: they are those of the CPU, in their order."""
    for device in ("cpu", "cuda"):
        train_vae(clips, tmp_path / device, 4, 0, quiet, TINY, device=torch.device(device))
    cpu, gpu = ([line["loss"] for line in read(tmp_path / device / "vae")] for device in ("cpu", "cuda"))
    assert gpu == pytest.approx(cpu, rel=1e-2)


def test_larger_batches_are_more_clips(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Batch] = []

    def noted(pictures: Pictures, batch: Batch, *rest: Any) -> Any:
        taken.append(batch)
        return batch_of(pictures, batch, *rest)

    monkeypatch.setattr("avatarctl.puppet.train_vae.batch_of", noted)
    train_vae(clips, tmp_path, 2, 0, quiet, TINY, times=3)
    assert [(batch.frames, batch.clips) for batch in taken] == [(5, 6), (1, 6)]
    with pytest.raises(ChangedError, match="'times': 3") as caught:
        train_vae(clips, tmp_path, 2, 0, quiet, TINY)
    assert "--times" in caught.value.hint


def test_batches_for_a_device_are_read_ahead_in_their_order() -> None:
    def draw(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.full((step + 1,), 0.0), torch.full((2,), 0.0)

    read_ahead = [tuple(batch[0].shape) for batch in _drawn(draw, 3, 14, torch.device("meta"))]
    assert read_ahead == [tuple(batch[0].shape) for batch in _drawn(draw, 3, 14, torch.device("cpu"))]
    assert read_ahead == [(step + 1,) for step in range(3, 14)]
