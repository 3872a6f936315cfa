"""Tests with the clients that docs/serve.md shows: the curl lines and the Python program make a video."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from docs.pages import ALL
from running import PICTURE, VOICE, Running, events

BLOCKS = [block for block in ALL if block.page.name == "serve.md" and "test_docs_of_serve" in block.not_run]
ADDRESS = "http://127.0.0.1:7860"


def test_the_page_has_both_clients() -> None:
    assert [block.language for block in BLOCKS] == ["sh", "python"]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.language)
def test_a_client_of_the_docs_makes_a_video(desk: Running, tmp_path: Path, block: object) -> None:
    language, text = block.language, block.text.replace(ADDRESS, desk.address)  # type: ignore[attr-defined]
    for long, short in (("seconds=1", "seconds=0.2"), ('"seconds": "1"', '"seconds": "0.2"')):
        text = text.replace(long, short)
    shutil.copy(PICTURE, tmp_path / "me.png")
    shutil.copy(VOICE, tmp_path / "voice.wav")
    if language == "sh" and shutil.which("curl") is None:
        pytest.skip("curl isn't installed")
    argv = ["bash", "-e", "-c", text] if language == "sh" else [sys.executable, "-c", text]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    made = tmp_path / ("talk.mp4" if language == "sh" else "talk-python.mp4")
    assert made.read_bytes()[4:8] == b"ftyp"
    if language == "sh":
        kinds = [kind for _, kind, _ in events((tmp_path / "events.txt").read_text())]
        assert kinds[0] == "queued" and "completed" in kinds
