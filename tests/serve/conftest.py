"""Fixtures: a home, a server that many tests ask, and servers of their own for tests that kill them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from running import PICTURE, Running
from served import Server

LACKS = [name for name in ("fastapi", "uvicorn", "python_multipart") if importlib.util.find_spec(name) is None]


class Lacking(pytest.Module):
    """A file of tests that can't run here."""

    def collect(self) -> Iterator[pytest.Item]:
        pytest.skip(f"the extra [serve] isn't installed (no {', '.join(LACKS)})", allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Skip every file of tests here, with the reason, where the extra isn't installed."""
    return Lacking.from_parent(parent, path=module_path) if LACKS else None


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home without weights."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def desk(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server that many tests ask."""
    running = Running(home, tmp_path_factory.mktemp("desk") / "jobs", presets=()).start()
    yield running
    assert running.stop() == 0
    said = running.log.read_text()
    assert "Traceback" not in said, said


@pytest.fixture
def own(home: Path, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Servers of one test; whatever it left running is ended."""
    made: list[Running] = []

    def start(*words: str, folder: str = "jobs") -> Running:
        made.append(Running(home, tmp_path / folder, *words).start())
        return made[-1]

    yield start
    for each in made:
        if each.process is not None:
            each.kill(workers_too=True)


@pytest.fixture(scope="session")
def straight(home: Path) -> Iterator[Callable[..., bytes]]:
    """What `generate` makes of the embedded avatar, by its command line."""
    made = Server(home)

    def generate(output: Path, *words: str) -> bytes:
        argv = ["generate", "--preset", "puppet", "-i", str(PICTURE), "-o", str(output), "-q", *words]
        done = made.run(output.parent, argv)
        assert done.status == 0, done.log
        return output.read_bytes()

    yield generate
    made.close()
