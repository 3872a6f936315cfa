"""Let processes hear Ctrl-C although the suite may have been started in the background; a program without a user's settings."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

# A shell makes what it starts in the background deaf to it, and so would be what the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the home of a program of whose variables none is set."""
    for name in [name for name in os.environ if name.startswith(("AVATARCTL_", "CUDA_VISIBLE"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AVATARCTL_HOME", str(tmp_path / "home"))
    return tmp_path / "home"
