"""`resume`: without a name it says which render it means, and of a finished one it repairs what `verify` finds."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from workshop import Attempt, Case, Server, straight

NewCase = Callable[..., Case]


class At(Case):
    """A case whose commands run in any folder, with a home that it shares with the cases beside it."""

    def command(self, *argv: str, at: Path | None = None, **how: Any) -> Attempt:
        home = str(self.folder.parent / "home")
        return self.server.run(at or self.folder, list(argv), AVATARCTL_HOME=home, **how)

    def generate(self, *more: str, **how: Any) -> Attempt:
        return self.command(*self.argv(*more), **how)


@pytest.fixture
def at(studio: Path, tmp_path: Path, server: Server) -> Callable[[str], At]:
    (tmp_path / "far").mkdir()
    return lambda name: At(studio, server, tmp_path / name)


def test_the_only_interrupted_render_is_resumed_and_named(at: Callable[[str], At], tmp_path: Path) -> None:
    case = at("one")
    nothing = case.command("resume", at=tmp_path / "far")
    assert nothing.status == 2 and "no interrupted render is known" in nothing.log
    case.stop(steps=3)
    resumed = case.command("resume", at=tmp_path / "far")
    assert resumed.status == 0, resumed.log
    assert f"resuming {case.render}: " in resumed.log and " of 6 passes" in resumed.log
    assert int(resumed.log.split(f"{case.render}: ")[1].split(" %")[0]) >= 50


def test_renders_below_the_current_folder_come_first_and_of_several_none_is_guessed(
    at: Callable[[str], At], tmp_path: Path
) -> None:
    near, far = at("near"), at("other")
    near.stop()
    far.stop()
    os.utime(near.render / "events.jsonl", (1, 1))
    several = far.command("resume", at=tmp_path / "far")
    assert several.status == 2 and "2 renders are interrupted" in several.log
    assert str(near.render) in several.log and str(far.render) in several.log and "passes" in several.log
    assert f"avatarctl resume {far.render}" in several.log.split("hint:")[1]
    assert not near.output.exists() and not far.output.exists()
    resumed = near.command("resume", at=near.folder)
    assert resumed.status == 0 and near.output.exists() and not far.output.exists(), resumed.log
    resumed = near.command("resume", at=tmp_path / "far")
    assert resumed.status == 0 and far.bytes() == near.bytes()


def test_a_render_that_is_noted_nowhere_is_found_in_its_folder(new_case: NewCase, tmp_path: Path) -> None:
    case = new_case()
    case.stop()
    resumed = case.server.run(case.folder, ["resume"], AVATARCTL_HOME=str(tmp_path / "new home"))
    assert resumed.status == 0, resumed.log
    assert case.output.exists()


@pytest.mark.parametrize(
    "name",
    [
        "segments/000000.mp4",
        "segments/000002.mp4",
        "windows/000000.safetensors",
        "windows/000001.safetensors",
        "frontier/generation-*.safetensors",
        "audio.f32",
        "conditions.safetensors",
        "index.jsonl",
    ],
)
def test_damage_in_a_finished_render_is_repaired_and_verify_agrees(case: Case, name: str) -> None:
    expected = straight(case, "--keep")
    path = sorted(case.render.glob(name))[-1]
    before, data = path.read_bytes(), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    verified = case.command("renders", "verify", str(case.render))
    assert verified.status == 4 and path.name in verified.log
    resumed = case.command("resume", str(case.render), "--progress", "json")
    assert resumed.status == 0, resumed.log
    assert "computing again" in resumed.log
    verified = case.command("renders", "verify", str(case.render))
    assert verified.status == 0, verified.log
    assert case.bytes() == expected
    if not name.startswith(("frontier", "index")):
        assert path.read_bytes() == before


def test_without_damage_there_is_nothing_left_to_do(case: Case) -> None:
    expected = straight(case, "--keep")
    resumed = case.command("resume", str(case.output), "--progress", "json")
    assert resumed.status == 0 and "nothing is left to do" in resumed.log, resumed.log
    assert resumed.steps() == [] and case.bytes() == expected


@pytest.mark.parametrize("place", [0, 4])
def test_repairing_a_window_computes_no_more_than_is_needed(new_case: NewCase, place: int) -> None:
    case = new_case(audio="long.wav")
    once = ("--steps", "1")
    expected = straight(case, "--keep", *once)
    (case.render / "windows" / f"{place:06d}.safetensors").unlink()
    resumed = case.command("resume", str(case.render), "--progress", "json")
    assert resumed.status == 0, resumed.log
    assert len(resumed.steps()) == (
        3 if place == 0 else 6
    )  # of ten: the windows that share its frames, and one for the edge
    assert case.bytes() == expected
    assert case.command("renders", "verify", str(case.render)).status == 0
