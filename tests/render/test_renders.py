"""Tests with finished, interrupted and harmed renders: what `renders` and `resume` say of them and do to them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from workshop import Attempt, Case, Server, straight

NewCase = Callable[..., Case]


@pytest.fixture
def alone(studio: Path, tmp_path: Path, server: Server) -> Callable[[str], Case]:
    """Return cases whose commands have a home of their own, where no other render is known."""
    return lambda name: Alone(studio, server, tmp_path / name)


class Alone(Case):
    """A case of a home that it shares with the cases beside it alone."""

    def generate(self, *more: str, **how: Any) -> Attempt:
        return self.server.run(self.folder, self.argv(*more), AVATARCTL_HOME=str(self.folder.parent / "home"), **how)

    def command(self, *argv: str, **how: Any) -> Attempt:
        return self.server.run(self.folder, list(argv), AVATARCTL_HOME=str(self.folder.parent / "home"), **how)


def known(case: Case) -> list[dict[str, Any]]:
    """Return what `renders list` says."""
    listed = case.command("renders", "list", "--json")
    assert listed.status == 0, listed.log
    return json.loads(listed.log)["data"]["renders"]


def test_list_tells_finished_from_interrupted_newest_first(alone: Callable[[str], Case]) -> None:
    finished, interrupted, gone = alone("finished"), alone("interrupted"), alone("gone")
    assert known(finished) == []
    assert finished.command("renders", "list").log.strip() == "no renders"
    straight(finished, "--keep")
    straight(gone)
    interrupted.stop()
    rows = known(finished)
    assert [(row["path"], row["state"]) for row in rows] == [
        (str(interrupted.render), "interrupted"),
        (str(finished.render), "finished"),
    ]
    assert rows[0]["output"] == str(interrupted.output)
    shutil.rmtree(interrupted.render)
    assert [row["state"] for row in known(finished)] == ["finished"]


def test_resume_takes_the_name_of_the_video_too(new_case: NewCase) -> None:
    case, reference = new_case("case"), straight(new_case("straight"))
    case.stop()
    resumed = case.command("resume", "talk.mp4")
    assert resumed.status == 0, resumed.log
    assert case.bytes() == reference


def test_a_render_folder_may_move(new_case: NewCase) -> None:
    case, reference = new_case("case"), straight(new_case("straight"))
    case.stop()
    moved = case.render.rename(case.folder / "elsewhere")
    resumed = case.command("resume", str(moved))
    assert resumed.status == 0, resumed.log
    assert case.bytes() == reference and not moved.exists()


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_what_is_no_render_is_said_to_be_none(case: Case, name: str) -> None:
    (case.folder / "empty").mkdir()
    for argv in (["resume", name], *(["renders", verb, name] for verb in ("show", "verify", "remove"))):
        attempt = case.command(*argv)
        assert attempt.status == 4, attempt.log
        assert "render.json" in attempt.log and "renders list" in attempt.log
    assert list((case.folder / "empty").iterdir()) == []


def test_show_names_inputs_and_progress(case: Case) -> None:
    case.stop()
    shown = case.command("renders", "show", str(case.output))
    assert shown.status == 0, shown.log
    for part in ("interrupted", str(case.output), str(case.studio / "face.png"), str(case.studio / "voice.wav")):
        assert part in shown.log
    data = json.loads(case.command("renders", "show", str(case.output), "--json").log)["data"]
    assert data["state"] == "interrupted" and data["events"]["checkpoint"] >= 3
    assert data["manifest"]["job"]["render"]["steps"] == 2
    assert 3 <= data["passes_done"] < data["passes_total"] == 6 and data["percent"] == 100 * data["passes_done"] // 6
    assert data["video_s"] == 0.68 and 0 <= data["video_done_s"] <= 0.68
    assert data["bytes"]["total"] > data["bytes"]["frontier"] > 0
    assert data["settings"]["steps"] == 2 and "crf" not in data["settings"]
    assert f"{data['percent']} %, {data['passes_done']} of 6 passes" in shown.log
    assert "of 0:01 finished" in shown.log and "kB" in shown.log


def test_list_fits_a_terminal_and_tells_how_far_each_render_is(alone: Callable[[str], Case]) -> None:
    finished, interrupted = alone("finished"), alone("interrupted")
    straight(finished, "--keep")
    interrupted.stop()
    listed = interrupted.command("renders", "list")
    header, first, second = listed.log.splitlines()
    assert header.split() == ["STATE", "DONE", "VIDEO", "ON", "DISK", "CHANGED", "RENDER"]
    assert first.startswith("interrupted") and first.endswith(" talk.mp4.render") and len(first) <= 80
    assert second.startswith("finished") and " 100 % " in second and second.endswith(str(finished.render))
    rows = known(finished)
    assert rows[1]["percent"] == 100 and rows[1]["video_done_s"] == rows[1]["video_s"] == 0.68
    assert rows[0]["percent"] < 100 and rows[0]["bytes"]["total"] > 0


def test_remove_keeps_the_video_and_asks_before_it_throws_work_away(new_case: NewCase) -> None:
    unfinished, finished = new_case("unfinished"), new_case("finished")
    unfinished.stop()
    refused = unfinished.command("renders", "remove", str(unfinished.render))
    assert refused.status == 2 and "--force" in refused.log and unfinished.render.exists()
    forced = unfinished.command("renders", "remove", str(unfinished.render), "--force")
    assert forced.status == 0 and not unfinished.render.exists()
    video = straight(finished, "--keep")
    (finished.render / "notes.txt").write_text("mine")
    for more in ((), ("--force",)):
        refused = finished.command("renders", "remove", str(finished.output), *more)
        assert refused.status == 2 and "notes.txt" in refused.log and "nothing was removed" in refused.log
    assert finished.command("renders", "verify", str(finished.render)).status == 0
    (finished.render / "notes.txt").unlink()
    assert finished.command("renders", "remove", str(finished.output)).status == 0
    assert finished.bytes() == video and not finished.render.exists()


def test_the_folder_goes_after_success_and_stays_when_asked_for(new_case: NewCase) -> None:
    case = new_case()
    straight(case)
    assert not case.render.exists()
    straight(case, "--force", "--keep")
    verified = case.command("renders", "verify", str(case.render))
    assert verified.status == 0 and "all whole" in verified.log
    again = case.generate("--keep")
    assert again.status == 0 and again.steps() == [], "a finished render has no window steps left"
