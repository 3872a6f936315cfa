"""Tests of what a batch tells people and programs: events, each video once, exit codes of dry runs, estimates."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from desk import Bench, wait_for

from avatarctl.render import estimate
from avatarctl.settings.render import RenderJob


def test_progress_json_is_lines_of_events_with_names_and_an_end(bench: Bench) -> None:
    source = bench.voices(0.68, 0.68)
    (source / "bad.wav").write_text("no sound")
    (source / "notes.txt").write_text("")
    ended = bench.run(source, "--jobs", "1")  # --progress json
    events = [json.loads(line) for line in ended.err.splitlines()]
    assert events[-1] == {"event": "finished", "status": "failed", "exit_code": 3} and ended.status == 3
    assert events[-2]["event"] == "error" and events[-2]["message"] and events[-2]["hint"]
    items = {(each["item"], each["state"]) for each in events if each["event"] == "item"}
    assert items >= {("v00.mp4", "started"), ("v00.mp4", "done"), ("v01.mp4", "done"), ("bad.mp4", "failed")}
    steps = [each for each in events if each["event"] == "progress"]
    assert steps and all(each["item"] in ("v00.mp4", "v01.mp4") and each["stage"] for each in steps)
    assert (steps[-1]["window_steps"], steps[-1]["of"]) == (12, 12)
    done = next(each for each in events if each["event"] == "item" and each["state"] == "done")
    assert done["wall_s"] > 0 and done["video_s"] > 0.5
    assert [each["text"] for each in events if each["event"] == "note"] == ["passed over 1 file: notes.txt"]
    assert bench.summary()["passed_over"] == [str(source / "notes.txt")]


def test_people_read_of_each_finished_video_once(bench: Bench) -> None:
    source = bench.voices(0.68)
    ended = bench.run(source, "--progress", "none")
    assert ended.status == 0 and (ended.out + ended.err).count("v00.mp4") == 1
    assert "1 done, in" in ended.out
    again = bench.run(source, "--progress", "none")
    assert (again.out + again.err).count("v00.mp4") == 1 and "finished before" in again.out


def test_a_dry_run_ends_with_the_code_that_the_run_would_have(bench: Bench) -> None:
    source = bench.voices(0.68)
    assert bench.run(source, "--dry-run").status == 0
    (source / "bad.wav").write_text("no sound")
    some = bench.run(source, "--dry-run", "--json")
    assert some.status == 3 and [row["output"] for row in some.data()["items"]] == ["v00.mp4"]
    assert [row["output"] for row in some.data()["bad"]] == ["bad.mp4"]
    none = bench.run(source, "--dry-run", "--image", str(source / "bad.wav"))
    real = bench.run(source, "--image", str(source / "bad.wav"))
    assert (none.status, real.status) == (4, 4) and "none of 2 videos can be made" in real.err
    assert not bench.output.exists()
    (source / "bad.wav").unlink()
    assert bench.run(source).status == 0
    changed = bench.run(source, "--image", str(bench.studio / "other.png"), "--dry-run", "--json")
    assert changed.status == 3
    assert "another picture than last time, which was" in changed.data()["items"][0]["why"]


def test_ctrl_c_is_how_watching_ends(bench: Bench) -> None:
    driver = bench.start(bench.voices(0.68), "--watch", "--jobs", "1", "--progress", "none")
    wait_for((bench.output / ".avatarctl-batch" / "v00.mp4.json").exists)
    driver.send_signal(signal.SIGINT)
    _, err = driver.communicate(timeout=60)
    assert f"watching {bench.folder / 'voices'}" in err and "Ctrl-C ends it" in err
    assert driver.returncode == 0 and "error" not in err


def test_one_slow_render_spoils_no_estimate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVATARCTL_HOME", str(tmp_path))
    monkeypatch.setattr(estimate, "speed_key", lambda *_: "one")
    job = RenderJob(image=Path("a.png"), audio=Path("a.wav"), output=Path("a.mp4"))
    for step_s in (0.1, 0.1, 0.9, 0.1):
        estimate.remember_speed(job, None, step_s)  # type: ignore[arg-type]
    assert estimate._read_speeds()["one"]["step_s"] == pytest.approx(0.1)
    assert estimate._read_speeds()["one"]["renders"] == 4


def test_a_dry_run_meets_what_the_run_would_meet(bench: Bench) -> None:
    source = bench.voices(0.68, 1.8)
    some = bench.run(source, "--dry-run", "--start", "1", "--json")
    assert some.status == 3 and [row["output"] for row in some.data()["bad"]] == ["v00.mp4"]
    every = bench.run(source, "--dry-run", "--start", "2", "--json")
    assert every.status == 4 and every.data()["items"] == []
    assert bench.run(source, "--start", "2").status == 4
