"""Tests with command lines of `train` and `lora train`: their results, plans and mistakes, and the videos of a run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from served import Attempt, Server
from tiny import TINY
from training.conftest import SMALL, make_cache, random_sample

from avatarctl.networks.checkpoints import load_transformer
from avatarctl.training import checkpoints


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A process that has imported everything."""
    served = Server(tmp_path_factory.mktemp("home"))
    yield served
    served.close()


@pytest.fixture
def run(server: Server, cache: Path, base: Path, tmp_path: Path) -> Any:
    """Return what runs a command line in a folder with a preset, a cache and weights."""
    (tmp_path / "small.yaml").write_text(json.dumps(SMALL))

    def run(*more: str, command: tuple[str, ...] = ("train",), data: Path = cache) -> Attempt:
        argv = [*command, "--data", str(data), "--output", "run", "--preset", "small.yaml", "--weights", str(base)]
        return server.run(tmp_path, [*argv, *more])

    return run


def result(attempt: Attempt) -> dict[str, Any]:
    return json.loads(attempt.log[attempt.log.index('{\n "avatarctl_result"') :])


def test_the_result_is_the_file_that_generate_takes(run: Any, tmp_path: Path) -> None:
    ended = run("--json", "--quiet")
    assert ended.status == 0, ended.log
    said = result(ended)
    assert said["command"] == "train" and said["status"] == "done"
    assert said["data"]["steps"] == SMALL["steps"]
    assert load_transformer(tmp_path / said["data"]["weights"]).dims == TINY
    quiet = run("--quiet")
    assert quiet.log == "run/transformer.safetensors\n"


def test_progress_lines_tell_step_and_loss(run: Any) -> None:
    ended = run("--progress", "json", "--set", "log_every=2")
    rows = [json.loads(line) for line in ended.log.splitlines() if line.startswith('{"event": "progress"')]
    assert [row["steps"] for row in rows] == [2, 4, 6]
    assert all(row["loss"] > 0 and row["of"] == 6 for row in rows)


def test_a_plan_does_nothing(run: Any, tmp_path: Path) -> None:
    ended = run("--dry-run", "--json", "--set", "holdout=1")
    assert ended.status == 0, ended.log
    data = result(ended)["data"]
    assert (data["samples"], data["held_out"], data["steps"]) == (6, 1, 6)
    assert sum(data["buckets"].values()) == 6
    assert data["memory"]["peak"] > data["memory"]["weights"] > 0
    assert 0 < data["trained"] < data["parameters"]
    assert not (tmp_path / "run").exists()
    assert "million weights" in run("--dry-run").log


def test_lora_train_writes_a_lora(run: Any, tmp_path: Path) -> None:
    more = ("--set", "attention=lora", "--set", "feed_forward=lora", "--set", "norms=frozen", "--rank", "3")
    ended = run(*more, "--quiet", command=("lora", "train"))
    assert ended.status == 0, ended.log
    assert ended.log == "run/lora.safetensors\n"
    ended = run("--force", command=("lora", "train"))
    assert ended.status == 2
    assert "use `avatarctl train` for full training" in ended.log


MISTAKES = [
    (("--set", "learning_rat=1"), 2, "did you mean learning_rate?"),
    (("--set", "rank"), 2, "expected NAME=VALUE"),
    (("--steps", "0", "--learning-rate", "-1"), 2, "--steps"),
    (("--set", "betas=[1]"), 2, "betas"),
    (("--weights", "nowhere.safetensors"), 5, "nowhere.safetensors"),
    (("--preset", "person-1.3"), 2, "not found"),
    (("--device", "cuda:9"), 8, "no GPU is usable"),
    (
        ("--set", "validate_every=5", "--set", "validation_images=[a.png]", "--set", "validation_audio=[a.wav]"),
        5,
        "missing",
    ),
    (("--set", "holdout=7"), 2, "expected some left to train on"),
    (("--set", "optimizer=adamw8bit"), 2, "pip install bitsandbytes"),
]


@pytest.mark.parametrize(("more", "status", "words"), MISTAKES, ids=[" ".join(case[0]) for case in MISTAKES])
def test_a_mistake_is_told_and_nothing_is_trained(
    run: Any, tmp_path: Path, more: tuple[str, ...], status: int, words: str
) -> None:
    ended = run(*more)
    assert ended.status == status, ended.log
    assert words in ended.log
    assert "Traceback" not in ended.log
    assert not checkpoints.steps(tmp_path / "run")


def test_no_cache_and_a_damaged_one(run: Any, tmp_path: Path) -> None:
    ended = run(data=tmp_path)
    assert ended.status == 4
    assert "avatarctl data encode" in ended.log
    cache = make_cache(tmp_path / "cache", [random_sample(f"clip{i}-0") for i in range(2)])
    [shard] = (cache / "shards").iterdir()
    data = bytearray(shard.read_bytes())
    data[3000] ^= 1
    shard.write_bytes(data)
    ended = run(data=cache)
    assert ended.status == 0
    assert "sample clip0-0 is damaged: others stand for it" in ended.log and "avatarctl data check" in ended.log
    (tmp_path / "run").rename(tmp_path / "first")
    data[-3000] ^= 1
    shard.write_bytes(data)
    ended = run(data=cache)
    assert ended.status == 4
    assert "2 of 2 samples of a size are damaged" in ended.log and "--repair" in ended.log
