"""Tests with server and workers killed at random instants: every video is that of `generate`, none is made twice, none lost."""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from running import VOICE, Running, kill, quick, wait_for

Start = Callable[..., Running]
Straight = Callable[..., bytes]
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
        assert [each["event"] for each in events_of(server, name)].count("completed") == 1
        assert not list((server.folder / name).glob("*.render"))
    assert set(server.all()) == set(wanted)


def words(seconds: str, steps: int, seed: int) -> tuple[dict[str, str], list[str]]:
    """Return the fields of a video, and the words by which `generate` makes the same."""
    fields = {"seconds": seconds, "steps": str(steps), "seed": str(seed), "checkpoint_every": "0"}
    fields |= {"model": "puppet", "size": "64x64"}
    argv = [
        "--duration",
        seconds,
        "--steps",
        str(steps),
        "--seed",
        str(seed),
        "--checkpoint-every",
        "0",
        "--size",
        "64x64",
    ]
    return fields, ["-a", str(VOICE), *argv]


def queue_some(server: Running, count: int, straight: Straight, folder: Path, steps: int) -> dict[str, bytes]:
    """Queue videos of unlike lengths and seeds; return what `generate` makes of each."""
    asked = [words(str(round(1 + 0.2 * (number % 3), 1)), steps, number) for number in range(count)]
    made = [straight(folder / f"{number}.mp4", *argv) for number, (_, argv) in enumerate(asked)]
    return {server.create(**fields)["id"]: video for (fields, _), video in zip(asked, made, strict=True)}


def events_of(server: Running, name: str) -> list[dict[str, Any]]:
    """Return the events of a video."""
    return [json.loads(line) for line in (server.folder / name / "events.jsonl").read_text().splitlines()]


def test_a_render_is_found_by_the_next_server_and_kills_cost_no_bit(
    own: Start, straight: Straight, tmp_path: Path
) -> None:
    fields, argv = words("1.4", 12, 3)
    wanted = straight(tmp_path / "straight.mp4", *argv)
    server = own()
    name = server.create(**fields)["id"]
    wait_for(lambda: server.get(name)["detail"]["passes_done"])
    [worker] = server.workers()
    worker.suspend()  # so that it is at work for certain
    server.kill()
    assert worker.is_running()
    server.start()
    assert server.get(name)["status"] == "in_progress" and not server.workers()  # its place is taken
    kill(worker)
    check(server, {name: wanted})
    assert any(each["event"] == "render" and each["render"]["event"] == "resumed" for each in events_of(server, name))


@pytest.mark.long
def test_a_render_outlives_its_server(own: Start) -> None:
    server = own()
    name = server.create(**quick(seconds="3", steps="12"))["id"]
    wait_for(lambda: server.get(name)["detail"]["passes_done"])
    [worker] = server.workers()
    server.kill()
    assert worker.is_running()
    server.start()
    server.until(name, "completed")
    told = [each["event"] for each in events_of(server, name)]
    assert told.count("started") == 1 and told.count("completed") == 1


@pytest.mark.long
def test_ten_jobs_survive_kills_at_random_instants(own: Start, straight: Straight, tmp_path: Path) -> None:
    server = own("--jobs", "2")
    wanted = queue_some(server, 10, straight, tmp_path, 6)
    met = ordeal(server, 15, random.Random("ten"), 5.0)
    assert all(met.values()), met
    check(server, wanted)


@pytest.mark.long
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


def test_two_servers_on_one_folder_are_refused(desk: Running) -> None:
    other = subprocess.run(desk.argv(), env=desk.environment, capture_output=True, text=True, cwd=desk.folder.parent)
    assert other.returncode == 6 and "another server works in this folder" in other.stderr
    assert desk.process is not None and str(desk.process.pid) in other.stderr and desk.address in other.stderr


@pytest.mark.long
def test_ctrl_c_saves_and_the_next_server_continues(own: Start) -> None:
    server = own()
    name = server.create(**quick(seconds="3", steps="8"))["id"]
    wait_for(lambda: server.get(name)["progress"] > 0)
    assert server.stop() == 0
    assert (server.folder / name / "video.mp4.render" / "render.json").exists()
    server.start()
    server.until(name, "completed")
    assert any(each["event"] == "render" and each["render"]["event"] == "resumed" for each in events_of(server, name))


@pytest.mark.long
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
    busy = server.create(**quick(seconds="4", steps="500"))["id"]
    server.until(busy, "in_progress")
    names = [server.post("/v1/videos", **quick(seconds="0.2", seed=str(n)), audio=kept)["id"] for n in range(200)]
    assert server.post(f"/v1/videos/{names[-1]}/move", to="first")["detail"]["position"] == 1
    server.kill(workers_too=True)
    server.start()
    states = server.all()
    assert set(states) == {busy, *names} and set(states.values()) <= {"queued", "in_progress", "completed"}
    videos = server.client.get("/v1/videos?limit=1000").json()["data"]
    waiting = {each["detail"]["position"]: each["id"] for each in videos if each["status"] == "queued"}
    assert sorted(waiting) == list(range(1, len(waiting) + 1))  # nobody is forgotten, nobody stands twice
    line = [waiting[place] for place in sorted(waiting) if waiting[place] in names]
    assert [name for name in names if name in line and name != names[-1]] == [
        each for each in line if each != names[-1]
    ]
    began = time.monotonic()
    server.client.get("/v1/videos?limit=1000").raise_for_status()
    assert time.monotonic() - began < 2
    server.client.delete(f"/v1/videos/{busy}")
    wait_for(lambda: list(server.all().values()).count("completed") >= 20)
    first = [name for name, status in server.all().items() if status == "completed"]
    assert set(first) <= {*names[:30], names[-1]}  # in their order
