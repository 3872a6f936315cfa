"""Fixtures: tiny weights, and a way to encode with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import footage
import pytest
from tiny import tiny_weights

FLAGS = ("--size", "64x64", "--size", "96x64", "--window", "3", "--starts", "fixed")


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tiny weights."""
    return tiny_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., footage.Command]:
    """Start a command line in a process of its own."""
    (tmp_path / "home").mkdir()
    return lambda *argv, **env: footage.Command(tmp_path, *argv, AVATARCTL_HOME=str(tmp_path / "home"), **env)


@pytest.fixture
def start(command: Callable[..., footage.Command], weights: Path) -> Callable[..., footage.Command]:
    """Start `data encode SOURCE CACHE`, tiny."""

    def begin(source: Path, cache: Path, *more: str, **env: str) -> footage.Command:
        files = ["data", "encode", source, "--output", cache, "--weights", weights, "--device", "cpu"]
        return command(*files, *FLAGS, *more, **env)

    return begin


@pytest.fixture
def encode(start: Callable[..., footage.Command]) -> Callable[..., footage.Ended]:
    """Run `data encode SOURCE CACHE --json` to its end, which must be a good one."""

    def run(source: Path, cache: Path, *more: str, status: int = 0) -> footage.Ended:
        ended = start(source, cache, "--json", *more).end()
        assert ended.status == status, ended.log
        return ended

    return run
