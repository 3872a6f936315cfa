"""Tests with several processes: one speaks, they agree on what they begin with, and Ctrl-C under launchers loses nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from served import ROOT, Server
from training.conftest import SMALL, make_cache, random_sample

from avatarctl.errors import Interrupted
from avatarctl.settings.train import TrainSettings
from avatarctl.training import checkpoints
from avatarctl.training.log import read
from avatarctl.training.processes import accelerated
from avatarctl.training.stopping import Stopping

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
ACCELERATE = [
    sys.executable,
    "-m",
    "accelerate.commands.launch",
    "--cpu",
    "--num_processes",
    "2",
    "--num_machines",
    "1",
]
ACCELERATE += ["--mixed_precision", "no", "--dynamo_backend", "no"]


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """A preset of a small run."""
    path = tmp_path_factory.mktemp("presets") / "small.yaml"
    path.write_text(json.dumps({**SMALL, "log_every": 1, "steps": 3, "weights": str(base)}))
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A process that has imported everything."""
    served = Server(tmp_path_factory.mktemp("home"))
    yield served
    served.close()


def start(launcher: list[str], folder: Path, argv: list[str]) -> subprocess.Popen[str]:
    """Start a launcher in a session of its own, as a terminal does."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "AVATARCTL_HOME": str(folder / "home"),
    }
    return subprocess.Popen(
        [*launcher, *argv], cwd=folder, env=environment, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def finish(process: subprocess.Popen[str], seconds: float = 200) -> tuple[int, str]:
    try:
        out, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, _ = process.communicate()
        raise AssertionError(f"still there after {seconds} s:\n{out[-3000:]}") from None
    return process.returncode, out


def argv(cache: Path, preset: Path, run: str, *more: str) -> list[str]:
    return ["train", "--data", str(cache), "--output", run, "--preset", str(preset), *more]


def test_a_launchers_number_of_passes_gives_way_to_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """`accelerate launch` sets it to 1 with DeepSpeed, which would step after every pass."""
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    with accelerated(TrainSettings(device="cpu", accumulate=3)) as accelerator:
        assert accelerator.gradient_accumulation_steps == 3


@pytest.mark.long
def test_one_process_speaks(cache: Path, preset: Path, tmp_path: Path) -> None:
    status, out = finish(
        start([*TORCHRUN, "-m", "avatarctl"], tmp_path, argv(cache, preset, "run", "--progress", "json"))
    )
    assert status == 0, out
    rows = [json.loads(line) for line in out.splitlines() if line.startswith('{"event": "progress"')]
    assert [row["steps"] for row in rows if row.get("steps")] == [1, 2, 3]
    status, out = finish(
        start(
            [*TORCHRUN, "-m", "avatarctl"],
            tmp_path,
            argv(cache, preset, "run", "--steps", "5", "--learning-rate", "1e-3"),
        )
    )
    assert status == 0 and out.count("from step 4: learning_rate 0.01") == 1, out
    status, out = finish(
        start([*TORCHRUN, "-m", "avatarctl"], tmp_path, argv(cache, preset, "run", "--set", "norms=frozen"))
    )
    assert status != 0 and out.count("error: run: its checkpoint has another shape") == 1, out


def test_a_process_whose_first_one_ended_says_so(server: Server, cache: Path, preset: Path, tmp_path: Path) -> None:
    """Without a launcher that kills it, as in a cluster's own: the first one's reason, and no word of a bug."""
    for status, more in ((0, ()), (7, ("--set", "norms=frozen"))):
        first, second = server.run_together(tmp_path, argv(cache, preset, "run", "--progress", "none", *more), 2)
        assert (first.status, second.status) == (status, status and 8), (first.log, second.log)
    assert "its checkpoint has another shape" in first.log and "bug of ours" not in second.log
    assert "error: process 1: another process of this run ended" in second.log, second.log


SPLIT = """
import os, sys
i = sys.argv.index(os.environ["SPLIT"]) + 1
sys.argv[i] += os.environ["RANK"]
sys.argv[0] = "avatarctl"
from avatarctl.cli import main
sys.exit(main())
"""


@pytest.mark.parametrize("flag", [pytest.param("--output", marks=pytest.mark.long), "--data"])
def test_machines_that_share_no_storage_are_told(
    preset: Path, tmp_path: Path, flag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process has a folder of its own: they end with words, at once."""
    (tmp_path / "split.py").write_text(SPLIT)
    cache = make_cache(tmp_path / "cache", [random_sample("clip0-0")])
    make_cache(tmp_path / "data0", [random_sample("clip0-0")])
    make_cache(tmp_path / "data1", [random_sample("clip1-0")])
    monkeypatch.setenv("SPLIT", flag)
    words = argv(cache if flag == "--output" else Path("data"), preset, "run", "--steps", "2", "--progress", "none")
    began = time.monotonic()
    if flag == "--output":
        finish(start([*TORCHRUN, "split.py"], tmp_path, words))  # from nothing all begin alike
        words[words.index("2")] = "4"
    status, out = finish(start([*TORCHRUN, "split.py"], tmp_path, words))
    assert status != 0 and time.monotonic() - began < 150
    expected = (
        "process 0 begins with the checkpoint of step 2; process 1 on"
        if flag == "--output"
        else "finds other samples than process 1"
    )
    assert out.count(expected) == 1, out
    assert "that all machines share" in out
    assert not checkpoints.steps(tmp_path / "run1")


SLOW = """
import sys, time
import avatarctl.training.loop as loop
loss, calls = loop.flow_loss, []
def slow(*given):
    calls.append(1)
    time.sleep(0.2 if len(calls) < 4 else 60)
    return loss(*given)
loop.flow_loss = slow
from avatarctl.cli import main
sys.argv[0] = "avatarctl"
sys.exit(main())
"""


@pytest.mark.parametrize(
    "launcher",
    [
        pytest.param([], id="alone", marks=pytest.mark.long),
        pytest.param(TORCHRUN, id="torchrun"),
        pytest.param(ACCELERATE, id="accelerate", marks=pytest.mark.long),
    ],
)
def test_ctrl_c_saves_the_last_finished_step_at_once(
    cache: Path, preset: Path, tmp_path: Path, launcher: list[str]
) -> None:
    """In the middle of a step of a minute, long before a launcher kills its workers; the same command resumes."""
    (tmp_path / "slow.py").write_text(SLOW)
    words = argv(cache, preset, "run", "--steps", "40", "--progress", "none", "--set", "exports_kept=all")
    process = start([*(launcher or [sys.executable]), "slow.py"], tmp_path, words)
    run, deadline = tmp_path / "run", time.monotonic() + 120
    while len([line for line in read(run) if "loss" in line] if run.exists() else []) < 3:
        assert time.monotonic() < deadline and process.poll() is None, finish(process, 1)[1]
        time.sleep(0.1)
    time.sleep(0.5)
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    status, out = finish(process, 100)
    assert time.monotonic() - began < 25, out
    assert status != 0
    assert checkpoints.steps(run) == [3] and checkpoints.newest(run)[0] is not None, out
    assert len(re.findall("stopped; step 3 of 40 is saved", out)) == 1, out
    assert (run / "exports" / "step-00000003.safetensors").exists()
    if not launcher:
        assert status == 130


def test_a_change_that_broke_off_is_never_saved() -> None:
    """A second Ctrl-C between the optimizer's step and its count must not become a checkpoint."""
    saved: list[int] = []
    stop = Stopping()
    stop.save_now = lambda: str(saved.append(1))
    with pytest.raises(KeyboardInterrupt), stop.changing():
        stop.signal = signal.SIGINT
        raise KeyboardInterrupt
    stop.save(signal.SIGINT)
    assert not saved
    stop = Stopping()
    stop.save_now = lambda: "stopped; step 3 is saved"
    stop.signal = signal.SIGINT
    stop.save(signal.SIGINT)
    with pytest.raises(Interrupted, match="step 3 is saved"), stop.changing():
        saved.append(2)
    assert not saved
