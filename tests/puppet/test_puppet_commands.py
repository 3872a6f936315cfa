"""Tests with mistakes on the command line of `avatarctl puppet`: each is told at once, with what mends it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from avatarctl.puppet.folders import EVALUATION_SEED

MISTAKES = {
    "a look that is none": (("data", "--output", "clips", "--look", "scarf"), 2, "--look: got scarf", ""),
    "a seed of the evaluation": (
        ("data", "--output", "clips", "--seed", str(EVALUATION_SEED)),
        2,
        "--seed: got '1152921504606846976', expected 0 to",
        "",
    ),
    "a decoder without looks": (
        ("train", "decoder", "--data", "clips", "--output", "nets"),
        2,
        "--looks: got none for decoder",
        "avatarctl puppet data --look hat",
    ),
    "looks for another network": (
        ("train", "vae", "--data", "clips", "--looks", "clips", "--output", "nets"),
        2,
        "--looks: got clips for vae",
        "",
    ),
    "weights to begin with for another network": (
        ("train", "speech", "--data", "clips", "--output", "nets", "--rate", "0.5"),
        2,
        "--start, --begin, --rate, --times: got one of them for speech",
        "--start FILE",
    ),
    "a GPU for what a core does in minutes": (
        ("train", "speech", "--data", "clips", "--output", "nets", "--device", "cuda"),
        2,
        "--device: got cuda for speech",
        "leave it out",
    ),
    "larger batches for another network": (
        ("train", "decoder", "--data", "clips", "--looks", "clips", "--output", "nets", "--times", "4"),
        2,
        "--start, --begin, --rate, --times: got one of them for decoder",
        "--start FILE",
    ),
    "steps behind no weights": (
        ("train", "vae", "--data", "clips", "--output", "nets", "--begin", "5"),
        2,
        "--begin with --start",
        "--begin STEPS",
    ),
    "a folder without a training": (
        ("quality", "--data", "clips", "--weights", "nets"),
        4,
        "got no checkpoint of a training",
        "puppet train vae",
    ),
    "no clips": (
        ("train", "vae", "--data", "clips", "--output", "nets"),
        4,
        "clips: got no drawn clips",
        "avatarctl puppet data",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told(name: str, tmp_path: Path) -> None:
    words, code, message, hint = MISTAKES[name]
    done = subprocess.run(
        [sys.executable, "-m", "avatarctl", "puppet", *words, "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    told = json.loads(done.stdout)
    assert (done.returncode, told["exit_code"]) == (code, code)
    assert message in told["errors"][0]["message"] and hint in told["errors"][0]["hint"]
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
