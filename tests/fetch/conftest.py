"""Fixtures: a fake hub with files named as the released ones, and a way to run `avatarctl fetch` against it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakehub import Hub, serving
from shelf import SIZES, Ended, Fetch, content

ROOT = Path(__file__).parents[2]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving({path: content(path, size) for path, size in SIZES.items()}) as served:
        yield served


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The weights folder, not there yet."""
    return tmp_path / "weights"


@pytest.fixture
def environment(hub: Hub, folder: Path, tmp_path: Path) -> dict[str, str]:
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "AVATARCTL_WEIGHTS": str(folder)}
    own |= {"AVATARCTL_HOME": str(tmp_path / "home"), "AVATARCTL_DEBUG": "", "NO_PROXY": "*"}
    return {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | own


@pytest.fixture
def start(environment: dict[str, str]) -> Callable[..., subprocess.Popen[str]]:
    """Start `avatarctl fetch …` in a process of its own."""

    def begin(*words: str, **more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "avatarctl", "fetch", *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=ROOT, env=environment | more, **pipes)

    return begin


@pytest.fixture
def fetch(start: Callable[..., subprocess.Popen[str]]) -> Fetch:
    """Run `avatarctl fetch …` to its end; a traceback is never right."""

    def run(*words: str, **more: str) -> Ended:
        process = start(*words, **more)
        out, err = process.communicate(timeout=60)
        assert "Traceback" not in err, err
        return Ended(process.returncode, out, err)

    return run
