"""Tests with small runs: they learn, that their first steps are pinned and a resumed run is the straight one."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_inputs, tiny_transformer
from training.conftest import make_cache, random_sample

from avatarctl.errors import BusyError, ChangedError, DeviceError, Interrupted, UsageError, WeightsError
from avatarctl.networks.adapters import merge_lora
from avatarctl.networks.checkpoints import load_transformer
from avatarctl.progress import Progress
from avatarctl.settings.train import TrainJob, TrainSettings
from avatarctl.training import checkpoints, train
from avatarctl.training.folder import held
from avatarctl.training.log import read, smooth

Maker = Callable[..., TrainJob]


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in read(run) if "loss" in line]


def without_times(run: Path) -> list[dict[str, Any]]:
    return [{name: value for name, value in line.items() if name != "step_s"} for line in read(run)]


def same_weights(*files: Path) -> bool:
    """Return whether files hold the same tensors, bit for bit (the order of their metadata is the library's whim)."""
    first, *others = (load_file(file) for file in files)
    return all(
        first.keys() == other.keys() and all(torch.equal(first[name], other[name]) for name in first)
        for other in others
    )


def stop_after(job: TrainJob, step: int) -> Progress:
    """Return what asks a run to stop once it has done so many steps: the word is heard in the step after."""

    def show(done: int, total: int, **facts: Any) -> None:
        if done == step:
            (job.output / "stop").touch()

    return show


# -- Learning ---------------------------------------------------------------------------------------------------------


def test_the_loss_falls_on_a_fixed_set(job: Maker) -> None:
    made = job(
        steps=300, learning_rate=3e-3, embeddings="full", whole_probability=1.0, face_probability=0.0, drop_text=0.0
    )
    done = train(made)
    assert done is not None and done.steps == 300
    found = losses(made.output)
    assert sum(found[-30:]) < 0.65 * sum(found[:30])
    assert (made.output / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert list((made.output / "tensorboard").iterdir())


def test_the_first_steps_are_pinned(job: Maker) -> None:
    """The values stand for the whole step: order, draws, loss, clipping, AdamW. A change of any shows here."""
    made = job(steps=4, seed=7)
    train(made)
    assert losses(made.output) == pytest.approx(PINNED, rel=1e-3)


PINNED = [3.2159478664, 3.4449794292, 4.0045161247, 3.2374408245]


def test_a_new_transformer_is_trained_from_random_weights(job: Maker) -> None:
    dims = {"dim": 48, "heads": 4, "layers": 1, "ffn": 64, "text_len": 12, "freq_dim": 32}
    made = job(weights=None, dims=dims, embeddings="full", steps=30)
    done = train(made)
    assert done is not None and done.weights is not None
    found = losses(made.output)
    assert sum(found[-5:]) < sum(found[:5])
    model = load_transformer(done.weights)
    assert (model.dims.dim, model.dims.layers, model.dims.text_len) == (48, 1, 12)


def test_what_is_frozen_stays_and_the_rest_moves(job: Maker, base: Path) -> None:
    made = job(attention="frozen", feed_forward="frozen", audio="full", norms="frozen")
    done = train(made)
    assert done is not None and done.weights is not None
    before, after = load_transformer(base).state_dict(), load_transformer(done.weights).state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all("vocal" in name for name in moved)


def test_the_average_of_the_weights_is_exported(job: Maker) -> None:
    plain, averaged = job("plain"), job("averaged", ema=0.9)
    train(plain), train(averaged)
    assert losses(plain.output) == losses(averaged.output)
    weights = [load_transformer(made.output / "transformer.safetensors").state_dict() for made in (plain, averaged)]
    assert not torch.equal(weights[0]["blocks.0.ffn.net.2.weight"], weights[1]["blocks.0.ffn.net.2.weight"])


def test_held_out_samples_are_measured_and_never_trained_on(job: Maker) -> None:
    made = job(holdout=2, holdout_every=3)
    train(made)
    lines = [line for line in read(made.output) if "held_out_loss" in line]
    assert [line["step"] for line in lines] == [0, 3, 6]
    assert lines[1]["held_out_loss"] != lines[2]["held_out_loss"]


# -- Going on ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"accumulate": 2, "batch_size": 2, "ema": 0.9},
        {"attention": "lora", "feed_forward": "lora", "norms": "frozen", "dropout": 0.3, "rank": 4, "holdout": 1},
        {"workers": 0, "gradient_checkpointing": False, "motion_weight": 0.25, "decay": "cosine"},
    ],
    ids=["plain", "accumulated", "lora", "other"],
)
def test_a_run_stopped_at_several_steps_is_the_straight_one(job: Maker, changes: dict[str, Any]) -> None:
    straight = job("straight", log_every=1, steps=7, **changes)
    whole = train(straight)
    assert whole is not None and whole.weights is not None
    stopped = job("stopped", log_every=1, steps=7, **changes)
    for step in (1, 3, 5):
        with pytest.raises(Interrupted, match=f"step {step + 1} of 7 is saved"):
            train(stopped, stop_after(stopped, step))
    done = train(stopped)
    assert done is not None and done.weights is not None
    assert same_weights(done.weights, whole.weights)
    assert without_times(stopped.output) == without_times(straight.output)
    last = [checkpoints.newest(made.output)[0] for made in (straight, stopped)]
    for name in ("trained", "optimizer", *(("ema",) if "ema" in changes else ())):
        first, second = (checkpoint.tensors(name) for checkpoint in last if checkpoint)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_states_of_eight_bits_resume_too(job: Maker) -> None:
    pytest.importorskip("bitsandbytes")
    straight, stopped = job("straight", optimizer="adamw8bit"), job("stopped", optimizer="adamw8bit", steps=3)
    train(straight), train(stopped)
    train(job("stopped", optimizer="adamw8bit"))
    assert losses(stopped.output) == losses(straight.output)


def test_more_steps_go_on_with_a_finished_run(job: Maker) -> None:
    train(job("straight", steps=6))
    train(job("longer", steps=3))
    train(job("longer", steps=6))
    runs = [job(name).output / "transformer.safetensors" for name in ("straight", "longer")]
    assert same_weights(*runs)


def test_save_and_stop_are_words_to_a_live_run(job: Maker) -> None:
    made = job(log_every=1)

    def show(done: int, total: int, **facts: Any) -> None:
        if done == 2:
            (made.output / "save").touch()

    train(made, show)
    assert checkpoints.steps(made.output) == [3, 6]
    assert not (made.output / "save").exists()


def test_checkpoints_come_by_step_and_by_time_and_two_are_kept(job: Maker) -> None:
    made = job(checkpoint_every=2)
    train(made)
    assert checkpoints.steps(made.output) == [4, 6]
    timed = job("timed", checkpoint_every_s=1e-6, keep_checkpoints=3)
    train(timed)
    assert checkpoints.steps(timed.output) == [4, 5, 6]


def test_a_damaged_checkpoint_is_passed_over(job: Maker, capfd: pytest.CaptureFixture[str]) -> None:
    made = job(checkpoint_every=2)
    train(made)
    expected = (made.output / "transformer.safetensors").rename(made.output.with_suffix(".safetensors"))
    newest = made.output / "checkpoints" / "step-00000006"
    data = bytearray((newest / "optimizer.safetensors").read_bytes())
    data[-1] ^= 1
    (newest / "optimizer.safetensors").write_bytes(data)
    (made.output / "checkpoints" / ".step-00000007.part").mkdir()
    train(made)
    assert same_weights(made.output / "transformer.safetensors", expected)
    assert "step-00000006" in capfd.readouterr().err
    assert checkpoints.newest(made.output)[0] is not None
    assert not list((made.output / "checkpoints").glob(".step*"))


# -- What can't work --------------------------------------------------------------------------------------------------


def test_a_run_refuses_another_base_and_force_begins_anew(job: Maker, tmp_path: Path) -> None:
    made = job(steps=3)
    train(made)
    with pytest.raises(ChangedError, match="another shape:\n  weights to start from"):
        other = tmp_path / "other.safetensors"
        from avatarctl.networks.checkpoints import save_weights

        save_weights(tiny_transformer(seed=5), other, "ours")
        train(job(steps=3, weights=other))
    done = train(job(steps=3, learning_rate=0.02), force=True)
    assert done is not None and len(losses(made.output)) == 3


def test_samples_of_other_networks_are_refused(job: Maker, tmp_path: Path) -> None:
    sample = random_sample("clip0-0")
    wide = dataclasses.replace(sample, tensors={**sample.tensors, "speech": torch.zeros(17, 99)})
    made = job().model_copy(update={"data": make_cache(tmp_path / "cache", [wide])})
    with pytest.raises(WeightsError, match="width of speech states: samples have 99, the transformer 16"):
        train(made)


def test_a_folder_that_is_busy_or_anothers_is_refused(job: Maker) -> None:
    made = job()
    with held(made.output), pytest.raises(BusyError, match="another process trains in it"):
        train(made)
    other = job("other")
    other.output.mkdir()
    (other.output / "holiday.jpg").touch()
    with pytest.raises(UsageError, match=r"holiday\.jpg"):
        train(other)


def test_a_full_disk_at_a_checkpoint_keeps_the_one_before(job: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    made = job(steps=3)
    train(made)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.os, "fsync", full)
        with pytest.raises(DeviceError, match="the disk is full"):
            train(job(steps=5))
    assert checkpoints.newest(made.output)[0] is not None
    train(job(steps=5))
    straight = job("straight", steps=5)
    train(straight)
    exported = [run / "transformer.safetensors" for run in (made.output, straight.output)]
    assert same_weights(*exported)


# -- LoRA ---------------------------------------------------------------------------------------------------------------

LORA = {"attention": "lora", "feed_forward": "lora", "norms": "frozen", "rank": 4, "alpha": 8.0}


@pytest.mark.parametrize("audio", ["full", "lora", "frozen"])
@pytest.mark.parametrize("form", ["diffusers", "kohya"])
def test_a_trained_lora_merges_into_the_model_that_was_trained(job: Maker, base: Path, audio: str, form: str) -> None:
    made = job(**{**LORA, "audio": audio, "lora_format": form, "export_dtype": "float32"})
    done = train(made)
    assert done is not None and done.weights is not None and done.weights.name == "lora.safetensors"
    merged = load_transformer(base).eval()
    merge_lora(merged, done.weights)
    checkpoint = checkpoints.newest(made.output)[0]
    assert checkpoint is not None
    from avatarctl.networks.attach import load_trained
    from avatarctl.training.model import make_model
    from avatarctl.training.samples import Samples

    samples = Samples(made.data, made.train, torch.zeros(4, 24))
    trained = make_model(made.train, samples.shapes())[0].eval()
    load_trained(trained, checkpoint.tensors("trained"))
    inputs = tiny_inputs()
    with torch.no_grad():
        outputs = [model(**inputs).sample for model in (merged, trained, load_transformer(base).eval())]
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=1e-5)
    assert (outputs[0] - outputs[2]).abs().max() > 1e-3


def test_a_float8_base_trains_a_lora(job: Maker) -> None:
    plain, narrow = (
        job("plain", **{**LORA, "audio": "lora"}),
        job("narrow", **{**LORA, "audio": "lora", "base_dtype": "float8"}),
    )
    train(plain), train(narrow)
    assert losses(narrow.output) != losses(plain.output)
    assert losses(narrow.output) == pytest.approx(losses(plain.output), rel=0.05)


# -- Odds and ends ------------------------------------------------------------------------------------------------------


def test_bfloat16_passes_stay_close_to_float32(job: Maker) -> None:
    plain, narrow = job("plain"), job("narrow", dtype="bfloat16")
    train(plain), train(narrow)
    assert losses(narrow.output) != losses(plain.output)
    assert losses(narrow.output) == pytest.approx(losses(plain.output), rel=0.05)


def test_the_run_folder_tells_what_was_done(job: Maker) -> None:
    made = job()
    train(made)
    manifest = json.loads((made.output / "run.json").read_text())
    assert manifest["train"]["learning_rate"] == 0.01
    assert set(manifest["libraries"]) >= {"torch", "diffusers", "accelerate", "peft"}
    assert len(manifest["base"]["transformer"]["sha256"]) == 64


def test_the_running_average_begins_without_bias() -> None:
    assert smooth([2.0, 2.0, 2.0], 0.9) == pytest.approx([2.0, 2.0, 2.0])
    assert smooth([0.0, 1.0], 0.5) == pytest.approx([0.0, 2 / 3])


def test_settings_that_contradict_each_other() -> None:
    for changes, words in [
        (dict.fromkeys(("attention", "feed_forward", "audio", "norms", "embeddings"), "frozen"), "everything frozen"),
        ({"whole_probability": 0.8, "face_probability": 0.3}, "at most 1 together"),
        ({"dims": {"dim": 48}, "attention": "lora"}, "a new transformer for a LoRA"),
        ({"base_dtype": "float8"}, "float8 is for frozen weights"),
        ({"validate_every": 5}, "no validation_images"),
        ({"validation_images": ["a.png"]}, "0 recordings for 1 pictures"),
    ]:
        with pytest.raises(ValueError, match=words):
            TrainSettings(**changes)
