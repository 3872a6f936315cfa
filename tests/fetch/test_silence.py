"""Show that a hub that accepts connections and says nothing is given up, and what a dry run tells then."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from avatarctl.commands.fetch import fetch
from avatarctl.errors import WeightsError
from avatarctl.fetching import hub
from avatarctl.fetching.sets import SETS


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(hub, "ANSWER_S", 0.3)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(hub, "api", lambda: HfApi(endpoint=endpoint))
        yield


@pytest.mark.usefixtures("silent")
def test_a_silent_hub_is_given_up_and_the_dry_run_tells_what_it_knows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    with pytest.raises(WeightsError, match="no answer in time") as caught:
        fetch(weights=tmp_path / "w", dry_run=True)
    assert time.monotonic() - began < 20
    out = capsys.readouterr().out
    assert "about 11.4 GB  text encoder" in out and "about 25.1 GB  stableavatar-1.3b in all" in out
    assert caught.value.data["sets"]["stableavatar-1.3b"]["about_bytes"] == SETS[0].about_bytes
    json.dumps(caught.value.data)
    assert hub.ANSWER_S < 30 and not (tmp_path / "w").exists()
