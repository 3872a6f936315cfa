"""Fixtures: a pretended GPU, built once."""

from __future__ import annotations

import pytest
from gpu import build_guard


@pytest.fixture(scope="session", autouse=True)
def guard(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Compile and load the device guard."""
    build_guard(tmp_path_factory.mktemp("guard"))
