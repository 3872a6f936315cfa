"""Tests with runs in several processes and runs that are killed: they go on to the weights of an uninterrupted one."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from served import ROOT, Server, kill_after
from training.conftest import SMALL

from avatarctl.training import checkpoints
from avatarctl.training.log import read

SETTINGS = {**SMALL, "log_every": 1, "steps": 12, "warmup_steps": 2}


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """A preset of a small run."""
    path = tmp_path_factory.mktemp("presets") / "small.yaml"
    path.write_text(json.dumps({**SETTINGS, "weights": str(base)}))
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A process that has imported everything."""
    served = Server(tmp_path_factory.mktemp("home"))
    yield served
    served.close()


def argv(cache: Path, preset: Path, run: Path, *more: str) -> list[str]:
    return ["train", "--data", str(cache), "--output", str(run), "--preset", str(preset), "--progress", "json", *more]


def same(first: Path, second: Path) -> bool:
    weights = [load_file(run / "transformer.safetensors") for run in (first, second)]
    return weights[0].keys() == weights[1].keys() and all(torch.equal(weights[0][n], weights[1][n]) for n in weights[0])


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in read(run)]


@pytest.mark.long
def test_kills_at_random_instants_cost_no_bit(server: Server, cache: Path, preset: Path, tmp_path: Path) -> None:
    chance = random.Random("kills")
    straight = tmp_path / "straight"
    began = time.monotonic()
    assert server.run(tmp_path, argv(cache, preset, straight)).status == 0
    length_s = time.monotonic() - began
    kills = []
    for number in range(4):
        run = tmp_path / f"run{number}"
        more = ("--set", f"checkpoint_every={1 + number}")
        for attempt in range(40):
            saved = max(checkpoints.steps(run), default=0)
            meanwhile = kill_after(chance.uniform(0.2, 0.9) * length_s) if attempt < 5 else None
            ended = server.run(tmp_path, argv(cache, preset, run, *more), meanwhile=meanwhile)
            assert ended.status in (0, -signal.SIGKILL), ended.log
            newest, _ = checkpoints.newest(run)
            assert (newest.step if newest else 0) >= saved, "a saved step was lost"
            if ended.status == 0:
                break
            kills.append(saved)
        assert same(run, straight)
        assert losses(run) == losses(straight)
    assert any(kills), "no kill came after a checkpoint"


@pytest.mark.long
def test_a_kill_at_any_write_costs_no_bit(server: Server, cache: Path, preset: Path, tmp_path: Path) -> None:
    straight = tmp_path / "straight"
    more = ("--set", "checkpoint_every=2", "--steps", "6")
    assert server.run(tmp_path, argv(cache, preset, straight, *more)).status == 0
    count = 0
    for number in range(3, 400, 5):
        folder = tmp_path / f"write{number}"
        folder.mkdir()
        ended = server.run(folder, argv(cache, preset, folder / "run", *more), fault="kill", at=number)
        if ended.status == 0:
            break
        assert ended.status == -signal.SIGKILL, ended.log
        ended = server.run(folder, argv(cache, preset, folder / "run", *more))
        assert ended.status == 0, f"write {number}: {ended.log}"
        assert same(folder / "run", straight), number
        count += 1
    assert count > 5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_stops(server: Server, cache: Path, preset: Path, tmp_path: Path, number: int) -> None:
    run = tmp_path / "run"

    def interrupt(pid: int) -> None:
        deadline = time.monotonic() + 60
        while not (run / "metrics.jsonl").exists() or len(read(run)) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        os.kill(pid, number)

    ended = server.run(tmp_path, argv(cache, preset, run, "--steps", "400"), meanwhile=interrupt)
    assert ended.status == 128 + number, ended.log
    assert "resume with the same command" in ended.log
    assert checkpoints.steps(run)[-1] >= 3
    assert "Traceback" not in ended.log


def launch(cache: Path, preset: Path, run: Path, processes: int, *more: str) -> Callable[[], str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "AVATARCTL_HOME": str(run.parent / "home"),
    }
    process = subprocess.Popen(
        [*command, "avatarctl", *argv(cache, preset, run, *more)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )

    def finish() -> str:
        out, _ = process.communicate(timeout=200)
        return f"{process.returncode}\n{out}"

    return finish


@pytest.mark.long
def test_two_processes_resume_to_the_bit_and_share_the_steps_samples(
    server: Server, cache: Path, preset: Path, tmp_path: Path
) -> None:
    straight, stopped, alone = tmp_path / "straight", tmp_path / "stopped", tmp_path / "alone"
    out = launch(cache, preset, straight, 2, "--accumulate", "2", "--steps", "5")()
    assert out.startswith("0\n"), out[-3000:]
    out = launch(cache, preset, stopped, 2, "--accumulate", "2", "--steps", "3")()
    assert out.startswith("0\n"), out[-3000:]
    out = launch(cache, preset, stopped, 2, "--accumulate", "2", "--steps", "5")()
    assert out.startswith("0\n"), out[-3000:]
    assert same(stopped, straight)
    assert losses(stopped) == losses(straight)
    # One process that passes four times per step sees the same samples with the same draws; only sums are rounded otherwise.
    assert server.run(tmp_path, argv(cache, preset, alone, "--accumulate", "4", "--steps", "5")).status == 0
    assert losses(alone) == pytest.approx(losses(straight), rel=1e-3)
    # One process resumes what two began, as the note says, where they stood in the order of samples.
    ended = server.run(tmp_path, argv(cache, preset, straight, "--accumulate", "4", "--steps", "7"))
    assert ended.status == 0, ended.log
    assert "from step 6: accumulate 2 \u2192 4, processes 2 \u2192 1" in ended.log.encode().decode("unicode_escape")
    assert server.run(tmp_path, argv(cache, preset, alone, "--accumulate", "4", "--steps", "7")).status == 0
    assert losses(alone) == pytest.approx(losses(straight), rel=1e-3)
