"""Fixtures: a studio of tiny weights and inputs, a server to run renders with, and fresh cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from workshop import Case, Server, furnish


@pytest.fixture(scope="session")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights, pictures, recordings and a preset."""
    return furnish(tmp_path_factory.mktemp("studio"))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A process that runs renders; the homes of its commands are temporary."""
    running = Server(tmp_path_factory.mktemp("home"))
    yield running
    running.close()


@pytest.fixture
def new_case(studio: Path, server: Server, tmp_path: Path) -> Callable[..., Case]:
    """Return fresh cases: ``new_case("name", audio="long.wav")``."""
    return lambda name="case", audio="voice.wav": Case(studio, server, tmp_path / name, audio)


@pytest.fixture
def case(new_case: Callable[..., Case]) -> Case:
    """One fresh case."""
    return new_case()
