"""Tests with folders of voices: batches: what is finished is skipped, what changed is left alone, one bad item stops nothing."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
from desk import Bench, kill, wait_for, workers
from render.workshop import babble, write_wav

from avatarctl.batch.attempts import Attempt, Rules, next_attempt
from avatarctl.batch.items import Item
from avatarctl.batch.local import gpus_here, places_for
from avatarctl.batch.work import Outcome
from avatarctl.settings.placement import PlacementSettings
from avatarctl.settings.render import RenderJob


def test_finished_items_are_skipped_changed_ones_left_alone_and_a_bad_one_stops_nothing(bench: Bench) -> None:
    source = bench.voices(0.68, 1.2)
    (source / "bad.wav").write_text("no sound")
    first = bench.run(source, "--json", "--jobs", "1")
    assert first.status == 3, first.err
    assert bench.states() == {"v01.mp4": "done", "v00.mp4": "done", "bad.mp4": "failed"}
    assert first.data() == bench.summary()
    assert "bad.wav" in next(row["why"] for row in first.data()["items"] if row["state"] == "failed")
    made = bench.records()
    assert not list(bench.output.glob("*.render"))

    (source / "bad.wav").unlink()
    second = bench.run(source, "--json")
    assert second.status == 0 and bench.states() == {"v01.mp4": "finished before", "v00.mp4": "finished before"}
    assert bench.records() == made

    write_wav(source / "v00.wav", babble(0.68, seed=9), 16000)
    third = bench.run(source)
    assert third.status == 3 and bench.states()["v00.mp4"] == "changed"
    assert "audio" in next(row["why"] for row in bench.summary()["items"] if row["output"] == "v00.mp4")
    assert bench.records() == made

    fourth = bench.run(source, "--redo")
    assert fourth.status == 0 and bench.states() == {"v00.mp4": "done", "v01.mp4": "finished before"}, fourth.err
    now = bench.records()
    assert now["v00.mp4"] != made["v00.mp4"] and now["v01.mp4"] == made["v01.mp4"]
    assert bench.run(source).status == 0

    (bench.output / "v01.mp4").write_bytes(b"cut by somebody")
    assert bench.run(source).status == 3 and bench.states()["v01.mp4"] == "changed"
    (bench.output / "v01.mp4").unlink()
    assert bench.run(source).status == 0 and bench.states()["v01.mp4"] == "done"
    assert bench.records()["v01.mp4"][1] == made["v01.mp4"][1]


def test_a_manifest_says_what_differs_and_the_videos_are_those_of_generate(bench: Bench) -> None:
    manifest = bench.studio / "two.jsonl"
    rows = [
        {"audio": "voice.wav", "output": "one.mp4", "prompt": "A person", "seed": 4, "steps": 1},
        {"audio": "other.wav", "image": "other.png", "output": "deep/two.mp4", "crf": 30, "size": "80x64"},
    ]
    manifest.write_text("\n".join(map(json.dumps, rows)))
    ended = bench.run(manifest, "--jobs", "1")
    assert ended.status == 0, ended.err
    for row, flags in zip(
        rows, (["--prompt", "A person", "--seed", "4", "--steps", "1"], ["--crf", "30", "--size", "80x64"])
    ):
        alone = bench.folder / "alone.mp4"
        picture = bench.studio / row.get("image", "face.png")
        files = ["-a", bench.studio / row["audio"], "-i", picture, "-o", alone, "--force", *flags]
        argv = ["--weights", bench.studio / "weights", "--preset", bench.studio / "tiny.yaml"]
        done = bench.start_any("generate", *files, *argv)
        assert done.wait() == 0, done.communicate()
        assert alone.read_bytes() == (bench.output / row["output"]).read_bytes()


def test_dry_run_gives_the_plan_longest_first_and_makes_nothing(bench: Bench) -> None:
    source = bench.voices(0.68, 1.8, 1.2)
    # With windows that share a pass, as no other test here: nothing is known of its speed.
    ended = bench.run(source, "--dry-run", "--json", "--jobs", "2", "--window-batch", "2")
    assert ended.status == 0 and not bench.output.exists()
    rows = ended.data()["items"]
    assert [row["output"] for row in rows] == ["v01.mp4", "v02.mp4", "v00.mp4"]
    assert all(row["runs"] and row["state"] == "new" for row in rows) and ended.data()["workers"] == 2
    assert all(row["time_s"] > 0 and row["time_basis"].startswith("calculated from what ") for row in rows)
    assert max(row["time_s"] for row in rows) <= ended.data()["time_s"] <= sum(row["time_s"] for row in rows)


def test_an_item_whose_worker_dies_is_made_by_another(bench: Bench) -> None:
    source = bench.voices(1.8, 1.8)
    driver = bench.start(source, "--jobs", "2", "--steps", "6")
    render = bench.output / "v00.mp4.render"
    wait_for(lambda: list(render.glob("frontier/*")))
    victim = next(one for one in workers(driver) if any(str(render) in file.path for file in one.open_files()))
    kill(victim)
    _, err = driver.communicate(timeout=120)
    assert driver.returncode == 0, err
    assert "v00.mp4: its worker was killed by SIGKILL" in err and "once more, elsewhere" in err
    attempts = {row["output"]: row["attempts"] for row in bench.summary()["items"]}
    assert attempts == {"v00.mp4": 2, "v01.mp4": 1}


def test_a_worker_that_always_dies_fails_its_items_and_says_why(bench: Bench) -> None:
    source = bench.voices(0.68)
    (bench.folder / "broken").mkdir()
    (bench.folder / "broken" / "torch.py").write_text("raise ImportError('broken on purpose')")
    ended = bench.run(source, "--retry", "1", PYTHONPATH=f"{bench.folder / 'broken'}:{Path(__file__).parents[2]}")
    assert ended.status == 3
    [row] = bench.summary()["items"]
    assert row["state"] == "failed" and row["attempts"] == 2 and "broken on purpose" in row["why"]


def test_ctrl_c_saves_everything_and_the_same_command_goes_on(bench: Bench) -> None:
    source = bench.voices(1.2, 1.2, 1.2)
    driver = bench.start(source, "--jobs", "2", "--steps", "6")
    wait_for(lambda: list((bench.output / "v00.mp4.render").glob("frontier/*")))
    hired = workers(driver)
    driver.send_signal(signal.SIGINT)
    _, err = driver.communicate(timeout=60)
    assert driver.returncode == 130 and "the same command continues" in err
    assert not any(one.is_running() for one in hired)
    states = bench.states()
    assert set(states.values()) <= {"stopped", "waiting", "done"} and states["v02.mp4"] == "waiting"
    events = (bench.output / "v00.mp4.render" / "events.jsonl").read_text()
    assert '"interrupted"' in events and '"checkpoint"' in events
    ended = bench.run(source, "--steps", "6")
    assert ended.status == 0 and set(bench.states().values()) <= {"done", "finished before"}, ended.err


def test_fail_fast_stops_the_rest_saved(bench: Bench) -> None:
    source = bench.voices(0.68, 1.8)
    (source / "a-bad.wav").write_text("no sound")
    ended = bench.run(source, "--fail-fast")
    assert ended.status == 3 and set(bench.states().values()) == {"failed", "waiting"}


@pytest.mark.long
def test_watch_takes_up_files_once_they_are_whole(bench: Bench) -> None:
    source = bench.voices(0.68)
    driver = bench.start(source, "--watch", "--jobs", "1")
    wait_for((bench.output / "v00.mp4").exists)
    (source / "bad.wav").write_text("no sound")
    whole = write_wav(bench.folder / "late.wav", babble(0.68, seed=5), 16000).read_bytes()
    growing = (source / "late.wav").open("wb")
    for part in range(3):  # three seconds, longer than a file has to be steady
        growing.write(whole[part * len(whole) // 3 : (part + 1) * len(whole) // 3])
        growing.flush()
        wait_for(lambda end=part: _older(source / "late.wav"))
        assert not (bench.output / "late.mp4.render").exists()
    growing.close()
    wait_for((bench.output / "late.mp4").exists)
    wait_for((bench.output / ".avatarctl-batch" / "late.mp4.json").exists)
    whole = write_wav(bench.folder / "slow.wav", babble(0.68, seed=6), 16000).read_bytes()
    (source / "slow.wav").write_bytes(whole[:9000])  # a copy that stalled, and goes on after it was looked at
    wait_for(lambda: _older(source / "slow.wav", 6))
    (source / "gone.wav").write_bytes(whole)
    (source / "gone.wav").unlink()
    (source / "slow.wav").write_bytes(whole)
    wait_for((bench.output / ".avatarctl-batch" / "slow.mp4.json").exists)
    driver.send_signal(signal.SIGINT)
    driver.communicate(timeout=60)
    assert driver.returncode == 130
    assert bench.states() == {"v00.mp4": "done", "late.mp4": "done", "bad.mp4": "failed", "slow.mp4": "done"}


def _older(path: Path, seconds: float = 1) -> bool:
    return time.time() - path.stat().st_mtime > seconds


def test_two_batches_in_one_folder(bench: Bench) -> None:
    source = bench.voices(1.8)
    driver = bench.start(source, "--steps", "30")
    wait_for((bench.output / "v00.mp4.render").exists)
    second = bench.run(source, "--steps", "30")
    assert second.status == 6 and "another batch works in this folder" in second.err
    kill(driver)


# -- What goes wrong, and what is done about it -------------------------------------------------------------------------


def item(**placement: str) -> Item:
    files = {"image": Path("a.png"), "audio": Path("a.wav"), "output": Path("a.mp4")}
    return Item(1, "a.mp4", RenderJob(**files, placement=PlacementSettings(**placement)), "line 1")


def test_a_full_device_is_tried_once_in_a_lower_memory_mode() -> None:
    full = Outcome("failed", message="device: out of memory", exit_code=8, out_of_memory=True)
    second = next_attempt(Attempt(item()), full, Rules(retry=0))
    assert second is not None and second.item.job.placement.memory == "model"
    assert next_attempt(second, full, Rules(retry=5)) is None
    assert next_attempt(Attempt(item(memory="sequential")), full, Rules()) is None


@pytest.mark.parametrize(("code", "tries"), [(1, 3), (8, 3), (2, 1), (4, 1), (5, 1), (6, 1), (7, 1)])
def test_only_deaths_and_device_errors_are_worth_another_try(code: int, tries: int) -> None:
    attempt: Attempt | None = Attempt(item())
    count = 0
    while attempt is not None:
        count += 1
        attempt = next_attempt(attempt, Outcome("failed", exit_code=code), Rules(retry=2), place=0)
    assert count == tries


def test_workers_share_gpus_and_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert gpus_here() == ["3", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus_here() == []
    assert [place.environment["OMP_NUM_THREADS"] for place in places_for((), 1000)] == ["1"] * 1000
