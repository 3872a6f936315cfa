"""Tests with FSDP2 and DeepSpeed ZeRO-2 on two CPU processes: the run is that of one process, and resumes to the bit."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from served import ROOT
from training.conftest import SMALL

from avatarctl.networks.adapters import describe_lora
from avatarctl.training import checkpoints
from avatarctl.training.export import export_run
from avatarctl.training.log import read

FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "StableAvatarTransformerBlock",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
    "FSDP_OFFLOAD_PARAMS": "false",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    "ACCELERATE_MIXED_PRECISION": "bf16",
}
ZERO = {
    "DS_ACCELERATOR": "cpu",
    "ACCELERATE_USE_DEEPSPEED": "true",
    "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2",
    "ACCELERATE_GRADIENT_CLIPPING": "0.05",
    "ACCELERATE_MIXED_PRECISION": "bf16",
    "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "none",
    "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "none",
    "ACCELERATE_DEEPSPEED_ZERO3_INIT": "false",
    "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": "false",
}
needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed: pip install deepspeed"
)
KINDS = [pytest.param(FSDP, id="fsdp2"), pytest.param(ZERO, id="zero2", marks=needs_deepspeed)]
# AdamW divides by a gradient's own size: with the usual epsilon one that is rounding alone moves its weight a whole step.
FULL = {**SMALL, "epsilon": 1e-3, "log_every": 1, "steps": 5, "holdout": 1, "holdout_every": 2}
LORA = {**FULL, "attention": "lora", "feed_forward": "lora", "norms": "frozen", "rank": 4, "holdout": 0}

Run = Callable[..., Path]


@pytest.fixture
def run(cache: Path, base: Path, tmp_path: Path) -> Run:
    """Return what runs a training: its folder's name, its settings, the launcher's environment (none: one process)."""

    def run(name: str, settings: dict[str, object], kind: dict[str, str] | None, *more: str) -> Path:
        (tmp_path / "preset.yaml").write_text(json.dumps({**settings, "weights": str(base)}))
        launcher = [
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node=2",
            str(Path(__file__).with_name("gloo.py")),
        ]
        program = launcher if kind else ["-m", "avatarctl"]
        argv = ["train", "--data", str(cache), "--output", name, "--preset", "preset.yaml", "--progress", "none", *more]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "AVATARCTL_HOME": str(tmp_path / "home")}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        done = subprocess.run(
            [sys.executable, *program, *argv], cwd=tmp_path, env={**environment, **(kind or {})},
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-5000:]
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
