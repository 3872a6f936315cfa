"""Tests with FSDP2 and DeepSpeed ZeRO-2 on two CPU processes: the run is that of one process, and resumes to the bit."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from served import Server
from training.conftest import SMALL
from training.gloo import FSDP, ZERO

from avatarctl.networks.adapters import describe_lora
from avatarctl.training import checkpoints
from avatarctl.training.export import export_run
from avatarctl.training.log import read

needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed: pip install deepspeed"
)
KINDS = [pytest.param(FSDP, id="fsdp2"), pytest.param(ZERO, id="zero2", marks=needs_deepspeed)]
# AdamW divides by a gradient's own size: with the usual epsilon one that is rounding alone moves its weight a whole step.
FULL = {**SMALL, "epsilon": 1e-3, "log_every": 1, "steps": 5, "holdout": 1, "holdout_every": 2}
LORA = {**FULL, "attention": "lora", "feed_forward": "lora", "norms": "frozen", "rank": 4, "holdout": 0}

Run = Callable[..., Path]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A process that has imported everything."""
    served = Server(tmp_path_factory.mktemp("home"))
    yield served
    served.close()


@pytest.fixture
def run(server: Server, cache: Path, base: Path, tmp_path: Path) -> Run:
    """Return what runs a training: its folder's name, its settings, the launcher's environment (none: one process)."""

    def run(name: str, settings: dict[str, object], kind: dict[str, str] | None, *more: str) -> Path:
        (tmp_path / "preset.yaml").write_text(json.dumps({**settings, "weights": str(base)}))
        argv = ["train", "--data", str(cache), "--output", name, "--preset", "preset.yaml", "--progress", "none", *more]
        if kind is None:
            ended = [server.run(tmp_path, argv)]
        else:
            ended = server.run_together(tmp_path, argv, 2, over_gloo=True, **kind)
        assert all(each.status == 0 for each in ended), [each.log[-3000:] for each in ended]
        return tmp_path / name

    return run


def losses(run: Path, name: str = "loss") -> list[float]:
    return [line[name] for line in read(run) if name in line]


def difference(first: Path, second: Path) -> float:
    tensors = [load_file(path) for path in (first, second)]
    assert tensors[0].keys() == tensors[1].keys()
    return max(float((tensors[0][name].float() - tensors[1][name].float()).abs().max()) for name in tensors[0])


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_run_of_one_process_and_resumes_to_the_bit(run: Run, tmp_path: Path, kind: dict[str, str]) -> None:
    """Weights, time path, sums and exports are float32, clipping is the settings', no process waits for held-out samples."""
    alone = run("alone", FULL, None, "--accumulate", "2")
    straight = run("straight", FULL, kind)
    name = "transformer.safetensors"
    assert losses(straight) == pytest.approx(losses(alone), abs=2e-6)
    assert losses(straight, "grad_norm") == pytest.approx(losses(alone, "grad_norm"), rel=1e-5)
    assert losses(straight, "held_out_loss") == pytest.approx(losses(alone, "held_out_loss"), abs=1e-5)
    assert difference(straight / name, alone / name) < 1e-6
    stopped = run("stopped", FULL, kind, "--steps", "3")
    stopped = run("stopped", FULL, kind)
    assert difference(straight / name, stopped / name) == 0
    assert losses(stopped) == losses(straight)
    # One process resumes what two began sharded, and a checkpoint is exported by one.
    checkpoint = checkpoints.newest(straight)[0]
    assert checkpoint is not None
    export_run(straight, None, tmp_path / "exported.safetensors", False, "auto", None)
    assert difference(tmp_path / "exported.safetensors", straight / name) == 0
    run("straight", FULL, None, "--accumulate", "2", "--steps", "7")
    run("alone", FULL, None, "--accumulate", "2", "--steps", "7")
    assert difference(straight / name, alone / name) < 2e-6
    # And two sharded ones what one process began.
    run("alone", FULL, kind, "--steps", "8")
    assert (
        "from step 8: accumulate 2 \u2192 1, processes 1 \u2192 2"
        in json.loads((alone / "run.json").read_text())["changes"][-1]["note"]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_passes_in_bfloat16_keep_the_time_and_the_weights_in_float32(run: Run, kind: dict[str, str]) -> None:
    """One process keeps frozen weights in 16 bits, sharded ones in 32: the losses are close, not equal."""
    narrow = {**FULL, "dtype": "bfloat16", "steps": 3}
    alone, both = run("alone", narrow, None, "--accumulate", "2"), run("both", narrow, kind)
    assert losses(both) == pytest.approx(losses(alone), rel=5e-3)
    exported = load_file(both / "transformer.safetensors")
    values = torch.cat([tensor.flatten() for tensor in exported.values()])
    assert values.dtype == torch.float32
    assert float((values.bfloat16().float() == values).float().mean()) < 0.9  # nothing was rounded on the way


@pytest.mark.parametrize("kind", KINDS)
def test_a_lora_is_trained_exported_and_resumed(run: Run, tmp_path: Path, kind: dict[str, str]) -> None:
    alone = run("alone", {**LORA, "export_dtype": "float32"}, None, "--accumulate", "2")
    stopped = run("stopped", {**LORA, "export_dtype": "float32"}, kind, "--steps", "3")
    assert (stopped / "exports" / "step-00000003.safetensors").exists()
    stopped = run("stopped", {**LORA, "export_dtype": "float32"}, kind)
    name = "lora.safetensors"
    assert difference(stopped / name, alone / name) < 1e-6
    facts = [describe_lora(path / name) for path in (alone, stopped)]
    assert facts[0]["alphas"] == facts[1]["alphas"] and facts[0]["layers"] == facts[1]["layers"]
