"""Show that a run without matplotlib and tensorboard writes its numbers as a table."""

from __future__ import annotations

from pathlib import Path

import pytest

from avatarctl.training import log


def test_without_the_extra_the_curve_is_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "missing", lambda: ["matplotlib", "tensorboard"])
    with log.Log(tmp_path, 0) as run:
        run.add(1, {"loss": 0.5, "sample": "a"})
        run.add(2, {"loss": 0.25, "held_out_loss": 0.75})
        run.draw()
    assert (tmp_path / log.TABLE).read_text() == "step,loss,held_out_loss\n1,0.5,\n2,0.25,0.75\n"
    assert not (tmp_path / log.CURVE).exists() and not (tmp_path / log.EVENTS).exists()
    with log.Log(tmp_path, 1) as run:  # resumed after the first step
        run.draw()
    assert (tmp_path / log.TABLE).read_text() == "step,loss\n1,0.5\n"


def test_what_is_missing_is_found_without_importing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "matplotlib" else object())
    assert log.missing() == ["matplotlib"]
