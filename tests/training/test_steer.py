"""Tests with runs that are resumed with other settings, data and batches, and with samples and steps that go wrong."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from training.conftest import make_cache, random_sample
from training.test_loop import losses

from avatarctl.errors import ChangedError, DeviceError, QualityError
from avatarctl.networks.dims import TRANSFORMER_1_3B
from avatarctl.settings.train import FREE, GROUPS, SHAPE, TrainJob, TrainSettings
from avatarctl.training import checkpoints, train
from avatarctl.training import loop as loop_module
from avatarctl.training.log import read
from avatarctl.training.memory import ways_to_save
from avatarctl.training.samples import Samples

Maker = Callable[..., TrainJob]
LORA = {"attention": "lora", "feed_forward": "lora", "audio": "lora", "norms": "frozen", "rank": 4, "alpha": 8.0}
STEADY = {"learning_rate": 3e-3, "whole_probability": 1.0, "face_probability": 0.0, "drop_text": 0.0, "drop_audio": 0.0}


def changes(run: Path) -> list[dict[str, Any]]:
    return json.loads((run / "run.json").read_text())["changes"]


# -- The course of a run ----------------------------------------------------------------------------------------------


def test_rate_batch_and_data_change_without_a_jump_of_the_loss(job: Maker, tmp_path: Path) -> None:
    """The loss after each change is that of the steps before it, not that of a beginning; run.json notes each."""
    few = make_cache(tmp_path / "few", [random_sample(f"clip{i}-0") for i in range(3)])
    more = make_cache(tmp_path / "more", [random_sample(f"clip{i}-0") for i in range(4)])
    common = {**STEADY, "embeddings": "full"}
    train(job(steps=150, **common).model_copy(update={"data": few}))
    train(job(steps=190, **{**common, "learning_rate": 1e-3}).model_copy(update={"data": few}))
    train(job(steps=220, batch_size=2, **{**common, "learning_rate": 1e-3}).model_copy(update={"data": few}))
    made = job(steps=260, batch_size=2, accumulate=2, **{**common, "learning_rate": 1e-3})
    train(made.model_copy(update={"data": more}))
    found = losses(made.output)
    assert len(found) == 260

    def mean(first: int, last: int) -> float:
        return sum(found[first:last]) / (last - first)

    start = mean(0, 20)
    for change in (150, 190):
        before, after = mean(change - 30, change), mean(change, change + 30)
        assert before < 0.75 * start
        assert after < 1.15 * before, f"the loss jumps at step {change}"
    assert mean(220, 260) < 0.85 * start  # a quarter of the samples is new
    assert [entry["from_step"] for entry in changes(made.output)] == [151, 191, 221]
    assert [entry["note"] for entry in changes(made.output)] == [
        "from step 151: learning_rate 0.003 → 0.001",
        "from step 191: batch_size 1 → 2",
        "from step 221: accumulate 1 → 2, samples 3 → 4",
    ]
    assert changes(made.output)[0]["changes"] == {"learning_rate": {"was": 0.003, "is": 0.001}}


@pytest.mark.parametrize(
    "change",
    [
        {"weight_decay": 0.1, "clip_norm": 0.5, "betas": (0.8, 0.99), "seed": 9},
        {"drop_audio": 0.3, "motion_weight": 0.2, "face_weight": 2.0, "shift": 3.0, "time": "logit-normal"},
        {"dtype": "bfloat16"},
        {"base_dtype": "float8"},
        {"dropout": 0.2, "lora_format": "kohya"},
        {"ema": 0.9},
        {"holdout": 1},
        {"warmup_steps": 0},
    ],
    ids="+".join,
)
def test_every_setting_of_the_course_may_change(job: Maker, change: dict[str, Any]) -> None:
    train(job(**{**LORA, "steps": 3}))
    made = job(**{**LORA, "steps": 6, **change})
    train(made)
    [entry] = changes(made.output)
    assert entry["from_step"] == 4
    assert set(entry["changes"]) - {"samples"} == set(change)
    assert len(losses(made.output)) == 6 and all(map(math.isfinite, losses(made.output)))


def test_another_optimizer_begins_with_a_fresh_state(job: Maker) -> None:
    pytest.importorskip("bitsandbytes")
    train(job(**{**LORA, "steps": 3}))
    made = job(**{**LORA, "steps": 5, "optimizer": "adamw8bit"})
    train(made)
    [entry] = changes(made.output)
    assert entry["note"] == "from step 4: optimizer adamw → adamw8bit (its state starts over)"
    newest = checkpoints.newest(made.output)[0]
    assert newest is not None and any("state1" in name for name in newest.tensors("optimizer"))


def test_nothing_is_noted_while_nothing_changes_and_a_lost_change_is_forgotten(job: Maker) -> None:
    made = job(steps=3, checkpoint_every=1)
    train(made)
    train(job(steps=5, checkpoint_every=1, workers=0, log_every=3))
    assert changes(made.output) == []
    train(job(steps=6, checkpoint_every=1, learning_rate=2e-3))
    assert [entry["from_step"] for entry in changes(made.output)] == [6]
    # The step with the other rate is lost; what is resumed knows the first rate alone.
    import shutil

    shutil.rmtree(made.output / "checkpoints" / "step-00000006")
    train(job(steps=6))
    assert changes(made.output) == []


def test_more_steps_of_a_cosine_are_noted(job: Maker) -> None:
    train(job(steps=3, decay="cosine"))
    made = job(steps=6, decay="cosine")
    train(made)
    assert [entry["note"] for entry in changes(made.output)] == ["from step 4: steps 3 → 6"]


def test_another_order_of_samples_begins_with_a_new_epoch_and_the_same_order_where_it_stood(job: Maker) -> None:
    """Of seven samples three were seen; with two passes a step the other four follow, with another size a new epoch."""
    seen: list[int] = []
    original = Samples.entries

    def entries(self: Samples, number: int) -> Any:
        seen.append(number)
        return original(self, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Samples, "entries", entries)
        train(job(steps=3))
        train(job(steps=5, accumulate=2))
        assert seen == [0, 1, 2, 3, 4, 5, 6]
        train(job(steps=6, accumulate=1))
        train(job(steps=7, batch_size=2))  # 8 of 7 are in the second epoch; 4 batches make an epoch now
    assert seen[7:] == [7, 8]


def test_shape_is_refused_with_what_it_was_and_free_where_nothing_is_saved(job: Maker) -> None:
    made = job(**{**LORA, "steps": 3})
    train(made)
    for change in ({"rank": 8}, {"alpha": 4.0}, {"audio": "full"}, {"norms": "full"}):
        name, value = next(iter(change.items()))
        was = made.train.model_dump()[name]
        with pytest.raises(ChangedError, match=f"{name}: was {was}, is {value}"):
            train(job(**{**LORA, "steps": 3, **change}))
    for checkpoint in (made.output / "checkpoints").iterdir():
        import shutil

        shutil.rmtree(checkpoint)
    done = train(job(**{**LORA, "steps": 3, "rank": 8}))
    assert done is not None and len(losses(made.output)) == 3


def test_each_setting_is_of_one_class() -> None:
    names = set(TrainSettings.model_fields)
    assert set(SHAPE) <= names and set(FREE) <= names
    assert not set(SHAPE) & set(FREE)
    assert set(GROUPS) <= set(SHAPE)


# -- Steps and samples that go wrong -----------------------------------------------------------------------------------


def broken_at(patch: pytest.MonkeyPatch, steps: set[int], gradient: bool = False) -> None:
    """Let the loss (or only the gradient) of these steps, counted from 1, not be finite."""
    original = loop_module.flow_loss
    draw = loop_module.Trainer._draw
    now = {"step": 0}

    def drawn(self: Any, batch: Any, micro: int) -> Any:
        now["step"] = self.state.step + 1
        return draw(self, batch, micro)

    def loss(*arguments: Any) -> Any:
        found, errors = original(*arguments)
        if now["step"] not in steps:
            return found, errors
        if gradient:
            found.register_hook(lambda each: each * math.nan)
            return found, errors
        return found * math.nan, errors * math.nan

    patch.setattr(loop_module.Trainer, "_draw", drawn)
    patch.setattr(loop_module, "flow_loss", loss)


@pytest.mark.parametrize("gradient", [False, True], ids=["loss", "gradient"])
def test_a_step_that_isnt_finite_is_skipped_and_logged_and_the_run_resumes_to_the_bit(
    job: Maker, gradient: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_at(monkeypatch, {3, 4}, gradient)
    straight, stopped = job("straight", ema=0.9), job("stopped", ema=0.9, steps=3)
    train(straight)
    train(stopped)
    train(job("stopped", ema=0.9))
    lines = [line for line in read(straight.output) if "skipped" in line]
    assert [(line["step"], line["skipped"]) for line in lines] == [
        (3, "gradient" if gradient else "loss"),
        (4, lines[0]["skipped"]),
    ]
    assert all(line["samples"] for line in lines)
    assert len(losses(straight.output)) == 4 and losses(straight.output) == losses(stopped.output)
    last = [checkpoints.newest(made.output)[0] for made in (straight, stopped)]
    for name in ("trained", "optimizer", "ema"):
        first, second = (checkpoint.tensors(name) for checkpoint in last if checkpoint)
        assert all(torch.equal(first[key], second[key]) and first[key].isfinite().all() for key in first)


def test_too_many_bad_steps_end_the_run_and_its_hint_helps(job: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    made = job(steps=8, checkpoint_every=2, max_bad_steps=3)
    with monkeypatch.context() as patch:
        broken_at(patch, {3, 4, 5, 6, 7, 8})
        with pytest.raises(QualityError, match=r"step 5: the loss is not finite .* 3 steps up to it") as ended:
            train(made)
    assert "--learning-rate 0.001" in ended.value.hint
    done = train(job(steps=8, checkpoint_every=2, max_bad_steps=3, learning_rate=1e-3))  # as the hint says
    assert done is not None and done.steps == 8
    assert changes(made.output)[0]["changes"]["learning_rate"] == {"was": 0.01, "is": 0.001}


def test_a_damaged_sample_is_skipped_counted_and_named(
    job: Maker, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    good = [random_sample(f"clip{i}-0") for i in range(4)]
    broken = dataclasses.replace(good[2], tensors={**good[2].tensors, "latents": good[2].tensors["latents"] * math.nan})
    cache = make_cache(tmp_path / "cache", [*good[:2], broken, good[3]])
    [shard] = (cache / "shards").iterdir()
    data = bytearray(shard.read_bytes())
    data[3000] ^= 1  # of clip0-0
    shard.write_bytes(data)
    made = job(steps=8).model_copy(update={"data": cache})
    done = train(made)
    assert done is not None and done.steps == 8
    said = capfd.readouterr().err
    assert said.count("clip2-0 is damaged") == 1 and said.count("clip0-0 is damaged") == 1
    lines = [line for line in read(made.output) if "loss" in line]
    assert sum(line.get("damaged", 0) for line in lines) == 4  # two of four samples, two epochs
    assert all(math.isfinite(line["loss"]) for line in lines)


# -- Memory -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("begun", [False, True])
def test_each_flag_of_a_full_device_is_accepted(job: Maker, monkeypatch: pytest.MonkeyPatch, begun: bool) -> None:
    """The hint's flags, what saves most first, given to the same command, resume the run or begin it."""
    from avatarctl.commands.shared import parsed_settings

    changes = {**LORA, "gradient_checkpointing": False, "batch_size": 2, "ema": 0.9}
    if begun:
        train(job(**{**changes, "steps": 2}))
    with monkeypatch.context() as patch:

        def full(*_: Any) -> None:
            raise torch.OutOfMemoryError("no room")

        patch.setattr(loop_module, "flow_loss", full)
        with pytest.raises(DeviceError, match="out of memory") as ended:
            train(job(**{**changes, "steps": 4}))
    assert ended.value.hint.startswith("add to the same command, what helps most first: ")
    flags = [part.split(" (about")[0].split(": ")[-1] for part in ended.value.hint.split("; then ")]
    assert len(flags) == 3
    given: dict[str, Any] = {}
    for flag in flags:
        words = flag.split()
        for name, value in zip(words[::2], words[1::2], strict=True):
            given |= parsed_settings([value] if name == "--set" else [f"{name[2:]}={value}"], {}, "")
    done = train(job(**{**changes, "steps": 4, **given}))
    assert done is not None and done.steps == 4


def test_what_helps_most_comes_first_and_a_checkpoint_keeps_the_shape() -> None:
    settings = TrainSettings(**{**LORA, "rank": 32}, gradient_checkpointing=False, batch_size=2)
    for begun in (False, True):
        ways = ways_to_save(TRANSFORMER_1_3B, 512, 512, 21, settings, True, begun)
        flags = [flags for flags, _ in ways]
        assert flags[:2] == ["--set gradient_checkpointing=true", "--batch-size 1 --accumulate 2"]
        assert [saved for _, saved in ways] == sorted((saved for _, saved in ways), reverse=True)
        assert ("--rank 8" in flags) is not begun
    full = TrainSettings(gradient_checkpointing=True, ema=0.9)
    assert ways_to_save(TRANSFORMER_1_3B, 512, 512, 21, full, True, True)[0][0] in (
        "--set ema=0",
        "--set optimizer=adamw8bit",
    )
