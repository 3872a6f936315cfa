"""Tests with optimizers, schedules, learning rates of groups and LoRA kinds: runs with each learn, and resume to the bit."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_inputs
from training.test_loop import LORA as LORA_SETTINGS
from training.test_loop import losses, same_weights

from avatarctl.errors import UsageError
from avatarctl.networks.adapters import merge_lora
from avatarctl.networks.checkpoints import load_transformer
from avatarctl.networks.lora_formats import parse_lora
from avatarctl.settings.train import TrainJob, TrainSettings
from avatarctl.training import log, train
from avatarctl.training.optimizer import OPTIMIZERS as AVAILABLE
from avatarctl.training.optimizer import clip_limit, learning_rate, make_optimizer, set_learning_rates, shorten_outlier

Maker = Callable[..., TrainJob]
LORA = {**LORA_SETTINGS, "export_dtype": "float32"}  # so that files hold what was trained to the last bit


# -- Optimizers -------------------------------------------------------------------------------------------------------

OPTIMIZERS = {
    "prodigy": {"learning_rate": 1.0, "optimizer_options": {"d0": 1e-4}},
    "adafactor": {},
    "came": {},
    "lion": {"learning_rate": 1e-3},
    "muon": {},
    "adamw8bit": {},
    "lion8bit": {"learning_rate": 1e-3},
    "adamw8bit-torchao": {},
    "adamw4bit-torchao": {},
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_learns_and_resumes_to_the_bit(job: Maker, name: str) -> None:
    pytest.importorskip(AVAILABLE[name][0].partition(".")[0])
    if "torchao" in name and shutil.which("g++") is None:
        pytest.skip("needs g++: torchao compiles its steps")
    changes = {"optimizer": name, "steps": 6, **OPTIMIZERS[name]}
    straight = train(job("straight", **changes))
    train(job("resumed", **{**changes, "steps": 3}))
    resumed = train(job("resumed", **changes))
    assert straight is not None and resumed is not None and straight.weights and resumed.weights
    assert losses(straight.run) == losses(resumed.run)
    assert same_weights(straight.weights, resumed.weights)
    assert losses(straight.run) != losses(train(job("other", steps=6)).run)  # type: ignore[union-attr]


def test_an_optimizer_that_is_not_installed_is_told_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    modules = {"adamw8bit": "bitsandbytes.optim", "prodigy": "pytorch_optimizer", "adamw4bit-torchao": "torchao.optim"}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(UsageError, match=f"{name} needs .*, which is not installed") as caught:
            make_optimizer([], TrainSettings(optimizer=name))
        assert caught.value.hint is not None and caught.value.hint.startswith("pip install ")


def test_an_unknown_option_is_told_with_those_there_are() -> None:
    pytest.importorskip("pytorch_optimizer")
    weight = ("blocks.0.ffn.net.2.weight", torch.nn.Parameter(torch.ones(2, 2)))
    settings = TrainSettings(optimizer="prodigy", optimizer_options={"d_cof": 2})
    with pytest.raises(UsageError, match=r"optimizer_options: got d_cof, expected options of Prodigy: .*d_coef"):
        make_optimizer([weight], settings)


# -- Learning rates ---------------------------------------------------------------------------------------------------


def rates(settings: TrainSettings, *steps: int) -> list[float]:
    return [learning_rate(settings, step) for step in steps]


def test_the_schedules() -> None:
    plain = {"learning_rate": 1.0, "warmup_steps": 4, "steps": 104}
    assert rates(TrainSettings(**plain), 0, 3, 4, 103) == pytest.approx([0.25, 1, 1, 1])
    cosine = TrainSettings(**plain, decay="cosine")
    assert rates(cosine, 0, 4, 54, 104, 200) == pytest.approx([0.25, 1, 0.55, 0.1, 0.1])
    assert learning_rate(cosine, 30) == pytest.approx(0.55 + 0.45 * math.cos(math.pi * 26 / 100))
    linear = TrainSettings(**plain, decay="linear", decay_floor=0.0)
    assert rates(linear, 4, 54, 104) == pytest.approx([1, 0.5, 0])
    square = TrainSettings(**plain, decay="polynomial", decay_power=2.0, decay_floor=0.0)
    assert rates(square, 4, 54) == pytest.approx([1, 0.25], abs=1e-6)
    again = TrainSettings(**plain, decay="cosine_with_restarts", decay_cycles=2)
    assert rates(again, 4, 53, 54) == pytest.approx([1, 0.1, 1], abs=1e-2)


def test_a_group_learns_at_its_own_rate(job: Maker) -> None:
    names = ("blocks.0.ffn.net.2.weight", "vocal_projector.proj_in.weight")
    model = [(name, torch.nn.Parameter(torch.ones(2, 2))) for name in names]
    settings = TrainSettings(learning_rate=1e-4, learning_rates={"audio": 4e-4}, warmup_steps=2)
    optimizer = make_optimizer(model, settings)
    set_learning_rates(optimizer, settings, 0)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([5e-5, 2e-4])
    straight = train(job("straight", learning_rates={"audio": 0.03}, steps=4))
    train(job("resumed", learning_rates={"audio": 0.03}, steps=2))
    resumed = train(job("resumed", learning_rates={"audio": 0.03}, steps=4))
    assert straight is not None and resumed is not None and straight.weights and resumed.weights
    assert same_weights(straight.weights, resumed.weights)
    with pytest.raises(ValueError, match="learning_rates: got embeddings, which are frozen"):
        TrainSettings(learning_rates={"embeddings": 1e-3})


def test_clipping_as_released() -> None:
    settings = TrainSettings(clip_norm=0.05, clip_start=5.0, clip_outliers=10.0)
    assert [clip_limit(settings, step) for step in (0, 500, 1000, 5000)] == pytest.approx([0.25, 0.15, 0.05, 0.05])
    weight = torch.nn.Parameter(torch.zeros(1))
    for step, norm, left in ((500, 9.0, 1.0), (2000, 0.2, 1.0), (2000, 0.3, 1 / 6), (2000, 9.0, 0.1)):
        weight.grad = torch.ones(1)
        shorten_outlier([weight], settings, step, norm)
        assert weight.grad.item() == pytest.approx(left)


# -- Kinds of LoRA ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["diffusers", "kohya"])
@pytest.mark.parametrize(
    ("kind", "more"), [("dora", {}), ("lokr", {}), ("loha", {}), ("lora", {"rslora": True}), ("dora", {"rslora": True})]
)
def test_what_a_kind_learnt_is_in_its_file(job: Maker, base: Path, kind: str, more: dict[str, Any], form: str) -> None:
    made = job(**{**LORA, "audio": "lora", "lora_kind": kind, "lora_format": form, **more})
    done = train(made)
    assert done is not None and done.weights is not None
    kinds = {change.kind for change in parse_lora(done.weights).layers.values()}
    assert kinds == {{"dora": "DoRA", "lokr": "LoKr", "loha": "LoHa", "lora": "LoRA"}[kind]}
    from avatarctl.networks.attach import load_trained
    from avatarctl.training import checkpoints
    from avatarctl.training.model import make_model
    from avatarctl.training.samples import Samples

    checkpoint = checkpoints.newest(made.output)[0]
    assert checkpoint is not None
    model, _ = make_model(made.train, Samples(made.data, made.train, torch.zeros(4, 24)).shapes())
    load_trained(model, checkpoint.tensors("trained"))
    merged = load_transformer(base)
    merge_lora(merged, done.weights)
    inputs = tiny_inputs()
    with torch.no_grad():
        outputs = [each.eval()(**inputs).sample for each in (merged, model, load_transformer(base))]
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=1e-5)
    assert (outputs[0] - outputs[2]).abs().max() > 1e-3


def test_a_kind_resumes_to_the_bit(job: Maker) -> None:
    more = {**LORA, "audio": "lora", "lora_kind": "loha", "dropout": 0.2}
    straight = train(job("straight", steps=4, **more))
    train(job("resumed", steps=2, **more))
    resumed = train(job("resumed", steps=4, **more))
    assert straight is not None and resumed is not None and straight.weights and resumed.weights
    assert same_weights(straight.weights, resumed.weights)


def test_kinds_that_read_the_base_need_it_whole() -> None:
    with pytest.raises(ValueError, match="base_dtype: float8 is for plain LoRA"):
        TrainSettings(**{**LORA, "audio": "lora", "lora_kind": "dora", "base_dtype": "float8"})


# -- Block swap -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more", [{}, {"base_dtype": "float8"}, {"offload_activations": True}, {"lora_kind": "dora"}], ids=str
)
def test_swapped_blocks_compute_the_same(job: Maker, more: dict[str, Any]) -> None:
    plain = train(job("plain", **{**LORA, "audio": "lora", **more}))
    swapped = train(job("swapped", **{**LORA, "audio": "lora", "block_swap": 2, **more}))
    assert plain is not None and swapped is not None and plain.weights and swapped.weights
    assert losses(plain.run) == losses(swapped.run)
    assert same_weights(plain.weights, swapped.weights)


def test_block_swap_is_for_frozen_weights() -> None:
    for changes in ({}, {**LORA, "gradient_checkpointing": False}, {**LORA, "compile": True}):
        with pytest.raises(ValueError, match="block_swap: "):
            TrainSettings(**{**changes, "block_swap": 2})


@pytest.mark.long  # a compiler runs for half a minute
def test_compiled_blocks_learn_as_plain_ones_and_resume_to_the_bit(job: Maker) -> None:
    if shutil.which("g++") is None:
        pytest.skip("needs g++, which compiled blocks of the CPU are made with")
    plain = train(job("plain", steps=4))
    straight = train(job("straight", steps=4, compile=True))
    train(job("resumed", steps=2, compile=True))
    resumed = train(job("resumed", steps=4, compile=True))
    assert plain is not None and straight is not None and resumed is not None and straight.weights and resumed.weights
    assert losses(straight.run) == pytest.approx(losses(plain.run), rel=1e-3)
    assert same_weights(straight.weights, resumed.weights)


# -- Float8, trackers -------------------------------------------------------------------------------------------------


def test_float8_products_are_refused_where_there_are_none(job: Maker) -> None:
    from avatarctl.errors import DeviceError

    with pytest.raises(DeviceError, match="matmul: float8 needs a GPU that multiplies in it"):
        train(job(matmul="float8"))


def test_float8_products_are_close_to_wide_ones(base: Path) -> None:
    pytest.importorskip("torchao")
    from avatarctl.networks.float8_matmul import to_float8_matmul

    plain, narrow = load_transformer(base), load_transformer(base)
    assert to_float8_matmul(narrow, torch.device("cpu"), emulate=True) > 10
    inputs = tiny_inputs()
    with torch.no_grad():
        first, second = plain(**inputs).sample, narrow(**inputs).sample
    assert 0 < (first - second).norm() / first.norm() < 0.1


def test_a_tracker_is_a_setting(job: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    train(job("none", tracker="none", steps=2))
    assert not (job("none").output / log.EVENTS).exists()
    with pytest.raises(UsageError, match="tracker: wandb is not installed") as caught:
        train(job("sent", tracker="wandb", steps=2))
    assert caught.value.hint == "pip install wandb"


def test_numbers_go_to_accelerates_trackers(job: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate import tracking

    seen: list[Any] = []

    class Tracker:
        requires_logging_directory = True

        def __init__(self, name: str, logging_dir: str) -> None:
            seen.append(("open", name))

        def start(self) -> None:
            pass

        def log(self, values: dict[str, float], step: int) -> None:
            seen.append((step, sorted(values)[:2]))

        def finish(self) -> None:
            seen.append("closed")

    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "aim", Tracker)
    monkeypatch.setattr(log.importlib.util, "find_spec", lambda name: name)
    train(job(tracker="aim", steps=2))
    assert seen[0] == ("open", "run") and seen[-1] == "closed"
    assert [entry[0] for entry in seen[1:-1]] == [1, 2]
