"""Tests with a server on a disk that is really full (a small file system in memory), and over folders that were damaged."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from running import VOICE, Running, error_of, quick, wait_for
from test_instants import ask, opened, sent

Start = Callable[..., Running]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 320 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=320m", "tmpfs", str(folder)]
    if os.name != "posix" or os.geteuid() or shutil.which("mount") is None:
        pytest.skip("only root mounts a small disk")
    if subprocess.run(words, capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(path: Path, leave: int = 0) -> None:
    """Fill a disk, but for ``leave`` bytes."""
    with path.open("ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            block = bytes(size)
            try:
                while shutil.disk_usage(path.parent).free > leave:
                    file.write(block)
            except OSError:
                continue


@pytest.mark.long
def test_a_full_disk_stops_and_costs_nothing(
    small_disk: Path, home: Path, straight: Callable[..., bytes], tmp_path: Path
) -> None:
    folder = small_disk / "jobs"
    server = Running(home, folder)
    server.log = tmp_path / "jobs.log"
    server.start()
    try:
        words = ["--duration", "2", "--steps", "20", "--checkpoint-every", "0"]
        wanted = straight(tmp_path / "straight.mp4", "-a", str(VOICE), *words)
        busy = server.create(model="puppet", seconds="2", steps="20", checkpoint_every="0")["id"]
        behind = server.create(**quick())["id"]
        wait_for(lambda: server.get(busy)["progress"] > 10)
        fill(small_disk / "filler")
        with VOICE.open("rb") as file:
            told = error_of(server.client.post("/v1/files", files={"file": file}), 507)
        assert "too full" in told["message"] and told["hint"]
        told = error_of(server.client.post(f"/v1/videos/{behind}/pause"), 507)
        assert "free some space" in told["hint"] and str(folder) not in str(told)
        assert server.get(behind)["detail"]["state"] != "paused"
        # The render at work ends for lack of space, and waits; nobody begins another.
        waiting = wait_for(lambda: (now := server.get(busy))["status"] == "queued" and now)
        assert "nearly full" in waiting["detail"]["state"]
        assert "nearly full" in server.client.get("/health").json()["hold"]
        assert "avatarctl_held 1" in server.client.get("/metrics").text
        assert server.get(behind)["status"] == "queued"
        server.kill(workers_too=True)
        server.start()  # also with not a byte free
        assert server.get(busy)["status"] == "queued"
        (small_disk / "filler").unlink()
        for name in (busy, behind):
            server.until(name, "completed")
        assert server.content(busy) == wanted
        assert server.stop() == 0
    finally:
        if server.process is not None:
            server.kill(workers_too=True)
    assert "Traceback" not in server.log.read_text(), server.log.read_text()


@pytest.mark.long
def test_a_folder_that_is_deleted_by_hand_is_no_job_any_more(own: Start) -> None:
    server = own()
    busy = server.create(**quick(seconds="4", steps="40"))["id"]
    waiting, good = (server.create(**quick(seed=str(n)))["id"] for n in range(2))
    server.until(busy, "in_progress")
    wait_for((server.folder / busy / "video.mp4.render" / "render.json").exists)
    for name in (waiting, busy):
        shutil.rmtree(server.folder / name, ignore_errors=True)
        shutil.rmtree(server.folder / name, ignore_errors=True)  # a worker wrote into it in the middle
    server.until(good, "completed")
    wait_for(lambda: server.client.get(f"/v1/videos/{waiting}").status_code == 404)
    assert server.client.get("/health").json()["status"] == "ok"
    assert "Traceback" not in server.log.read_text()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "noise": lambda path: path.write_bytes(random.Random(str(path.name)).randbytes(200)),
    "deep": lambda path: path.write_text("[" * 100_000),
    "list": lambda path: path.write_text("[1, 2]"),
    "gone": lambda path: path.unlink(),
    "folder": lambda path: (path.unlink(), path.mkdir(), (path / "x").touch()),
    "loop": lambda path: (path.unlink(), path.symlink_to(path.name)),
}


@pytest.fixture(scope="module")
def lived_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a job that is finished, another that is paused, and two uploads, as a server leaves them."""
    folder = tmp_path_factory.mktemp("lived") / "jobs"
    house = opened(folder)
    done = ask(house)
    done.output.write_bytes(b"a video")
    done.note("outcome.json", {"state": "done", "wall_s": 1.0, "video_s": 1.0, "notes": []})
    done.state = done.look()
    house.queue.logs[done.id].end()
    body = sent(house)
    other = house.create(body, "another key")[0]
    house.queue.pause(other)
    house.queue.move(other, "first")
    for part in sent(house).files.values():
        house.keep_file(part)
    return folder


@pytest.mark.parametrize("damage", DAMAGES)
def test_one_damaged_file_costs_what_it_holds_and_nothing_else(lived_in: Path, tmp_path: Path, damage: str) -> None:
    notes = sorted(path.relative_to(lived_in) for path in lived_in.rglob("*")
                   if path.is_file() and path.suffix in (".json", ".jsonl", "") and "lock" not in path.name)  # fmt: skip
    assert len(notes) > 8
    for number, note in enumerate(notes):
        folder = tmp_path / str(number) / "jobs"
        shutil.copytree(lived_in, folder)
        before = opened(folder)
        states = {job.id: job.state for job in before.queue.listed()}
        assert sorted(states.values()) == ["done", "paused"]
        DAMAGES[damage](folder / note)
        house = opened(folder)
        after = {job.id: job.state for job in house.queue.listed()}
        hit = note.parts[0]
        assert {name: state for name, state in after.items() if name != hit} == {
            name: state for name, state in states.items() if name != hit
        }, note
        if note.name == "job.json" and damage != "gone":
            assert hit not in after and (folder / hit) in house.queue.damaged
        assert after.get(hit) in (None, "done", "paused", "waiting", "failed")
        house.supervisor._look()
        [house.views.text(job, "") for job in house.queue.listed()]
