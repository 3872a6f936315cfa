"""Tests with server and workers killed at random instants: every video is that of `generate`, none is made twice, none lost."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from running import VOICE, Running, generate, kill, quick, wait_for

Start = Callable[..., Running]
KINDS = ("worker", "server", "both")


def ordeal(server: Running, kills: int, chance: random.Random, longest_s: float) -> dict[str, int]:
    """Kill the server, its workers, or all, until there were so many kills; each time somebody was at work."""
    met = dict.fromkeys(KINDS, 0)
    while sum(met.values()) < kills:
        states = server.all()
        if not set(states.values()) & {"queued", "in_progress"}:
            break
        time.sleep(chance.uniform(0, longest_s))
        kind = KINDS[sum(met.values()) % 3]
        hired = server.workers()
        if kind == "worker":
            for one in hired[:1]:
                kill(one)
        else:
            server.kill(workers_too=kind == "both")
            server.start()
        met[kind] += 1
        assert set(server.all()) >= set(states), "a job was lost"
    return met


def check(server: Running, wanted: dict[str, bytes]) -> None:
    """Wait for all videos and compare them; each was completed once."""
    for name, content in wanted.items():
        server.until(name, "completed", 300)
        assert server.content(name) == content
        lines = (server.folder / name / "events.jsonl").read_text().splitlines()
        told = [json.loads(line)["event"] for line in lines]
        assert told.count("completed") == 1
        assert not list((server.folder / name).glob("*.render"))
    assert set(server.all()) == set(wanted)


def queue_some(server: Running, count: int, home: Path, folder: Path, length: float, steps: int) -> dict[str, bytes]:
    """Queue videos of unlike lengths and seeds; return what `generate` makes of each."""
    made = {}
    for number in range(count):
        seconds = str(round(length + 0.2 * (number % 3), 1))
        words = ["--duration", seconds, "--steps", str(steps), "--seed", str(number), "--checkpoint-every", "0"]
        fields = {"seconds": seconds, "steps": str(steps), "seed": str(number), "checkpoint_every": "0"}
        straight = generate(home, folder / f"{number}.mp4", "-a", str(VOICE), *words)
        made[server.create(model="puppet", **fields)["id"]] = straight
    return made


def test_kills_cost_no_bit_no_video_and_none_is_made_twice(own: Start, home: Path, tmp_path: Path) -> None:
    server = own("--jobs", "1")
    wanted = queue_some(server, 2, home, tmp_path, 0.6, 3)
    ordeal(server, 3, random.Random("serve"), 4.0)
    check(server, wanted)


@pytest.mark.long
def test_ten_jobs_survive_kills_at_random_instants(own: Start, home: Path, tmp_path: Path) -> None:
    server = own("--jobs", "2")
    wanted = queue_some(server, 10, home, tmp_path, 1.0, 4)
    met = ordeal(server, 18, random.Random("ten"), 6.0)
    assert all(met.values()), met
    check(server, wanted)


def test_a_render_outlives_its_server_and_is_found_again(own: Start) -> None:
    server = own()
    name = server.create(**quick(seconds="3", steps="6"))["id"]
    wait_for((server.folder / name / "video.mp4.render" / "render.json").exists)
    [worker] = server.workers()
    server.kill()
    assert worker.is_running()
    server.start()
    assert server.get(name)["status"] in ("in_progress", "completed")
    assert not server.workers()  # its place is taken
    server.until(name, "completed")
    told = [json.loads(line)["event"] for line in (server.folder / name / "events.jsonl").read_text().splitlines()]
    assert told.count("started") == 1 and told.count("completed") == 1


def test_what_was_wanted_of_a_job_is_done_though_the_server_was_killed(own: Start) -> None:
    server = own()
    busy = server.create(**quick(seconds="3", steps="8"))["id"]
    one, two = (server.create(**quick(seed=str(n)))["id"] for n in range(2))
    server.post(f"/v1/videos/{two}/move", to="first")
    server.post(f"/v1/videos/{one}/pause")
    server.until(busy, "in_progress")
    server.post(f"/v1/videos/{busy}/pause")
    server.kill()
    server.start()
    server.until(busy, "paused")
    assert server.get(one)["detail"]["state"] == "paused"
    server.until(two, "completed")
    assert server.get(one)["status"] == "queued"
    for name in (busy, one):
        server.post(f"/v1/videos/{name}/resume")
        server.until(name, "completed")


def test_two_servers_on_one_folder_are_refused(own: Start) -> None:
    import subprocess

    server = own()
    other = subprocess.run(
        server.argv(), env=server.environment, capture_output=True, text=True, cwd=server.folder.parent
    )
    assert other.returncode == 6 and "another server works in this folder" in other.stderr
    assert str(server.process.pid) in other.stderr if server.process else False


def test_ctrl_c_saves_and_the_next_server_continues(own: Start) -> None:
    server = own()
    name = server.create(**quick(seconds="3", steps="8"))["id"]
    wait_for(lambda: server.get(name)["progress"] > 0)
    assert server.stop() == 0
    assert (server.folder / name / "video.mp4.render" / "render.json").exists()
    server.start()
    server.until(name, "completed")
    told = [json.loads(line) for line in (server.folder / name / "events.jsonl").read_text().splitlines()]
    assert any(each["event"] == "render" and each["render"]["event"] == "resumed" for each in told)


def test_damaged_files_cost_what_they_hold_and_nothing_else(own: Start, tmp_path: Path) -> None:
    server = own()
    good = server.create(**quick())["id"]
    bad = server.create(**quick())["id"]
    server.post(f"/v1/videos/{bad}/pause")
    server.until(good, "completed")
    with VOICE.open("rb") as file:
        kept = server.client.post("/v1/files", files={"file": file}).json()["id"]
    server.stop()
    (server.folder / bad / "job.json").write_text("{")
    (server.folder / good / "events.jsonl").open("a").write('{"torn')
    own_folder = server.folder / ".avatarctl-serve"
    (own_folder / "queue.json").write_text("nonsense")
    (own_folder / "spool" / f"{kept}.json").write_text("nonsense")
    (own_folder / "spool" / "file_000000000000000000000000.part").write_text("half")
    server.start()
    assert server.all() == {good: "completed"}
    assert (server.folder / bad / "job.json").exists()  # left as it is, and said
    assert bad in server.log.read_text() and server.client.get("/health").json()["damaged"] == 1
    assert server.client.get(f"/v1/files/{kept}").status_code == 404
    assert not list((own_folder / "spool").iterdir())
    server.until(server.create(**quick())["id"], "completed")


@pytest.mark.long
def test_two_hundred_jobs_wait_in_line(own: Start) -> None:
    server = own()
    with VOICE.open("rb") as file:
        kept = server.client.post("/v1/files", files={"file": file}).json()["id"]
    first = server.create(**quick(seconds="4", steps="8"))["id"]
    server.until(first, "in_progress")
    names = [server.post("/v1/videos", **quick(), audio=kept)["id"] for _ in range(200)]
    assert server.post(f"/v1/videos/{names[-1]}/move", to="first")["detail"]["position"] == 1
    server.kill(workers_too=True)
    server.start()
    states = server.all()
    assert len(states) == 201 and set(states.values()) <= {"queued", "in_progress", "completed"}
    assert server.get(names[0])["detail"]["position"] is not None
    began = time.monotonic()
    server.client.get("/v1/videos?limit=1000").raise_for_status()
    assert time.monotonic() - began < 2
