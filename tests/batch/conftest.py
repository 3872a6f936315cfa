"""Fixtures: a folder of tiny weights, voices and pictures, and a fresh desk for batches over it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from desk import Bench
from render.workshop import furnish


@pytest.fixture(scope="session")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights, pictures, recordings and a preset."""
    return furnish(tmp_path_factory.mktemp("studio"))


@pytest.fixture
def bench(studio: Path, tmp_path: Path) -> Iterator[Bench]:
    """A fresh folder; whatever a test left running there is ended."""
    made = Bench(studio, tmp_path)
    yield made
    for process in made.running:
        if process.poll() is None:
            process.kill()
            process.wait()
