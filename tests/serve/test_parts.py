"""Tests of parts of a server by themselves: a full disk, notes of a worker, numbers of events, names of jobs."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from avatarctl import durable
from avatarctl.batch.local import Place
from avatarctl.serve import log, supervisor
from avatarctl.serve.answers import Refused
from avatarctl.serve.jobs import JOB, REMOVING, Job, found_in, is_id, new_id
from avatarctl.serve.queue import Queue
from avatarctl.serve.spool import Limits, Spool
from avatarctl.serve.supervisor import Supervisor
from avatarctl.settings.render import RenderJob

Usage = namedtuple("Usage", "total used free")


def a_job(folder: Path, created: float = 1.0) -> Job:
    """Return a job in a folder, as a server lays it there."""
    job = RenderJob(image=folder / "x.png", audio=folder / "x.wav", output=folder / "video.mp4")
    files = {"output": "video.mp4", "audio": "audio", "image": "image"}
    path = folder / new_id()
    path.mkdir(parents=True)
    content = {
        "version": 1,
        "id": path.name,
        "created_at": created,
        "key": "",
        "body": "",
        "user": "",
        "model": "puppet",
    }
    content |= {"said": {}, "names": {}, "files": files, "job": json.loads(job.model_dump_json()), "notes": []}
    durable.replace(path / JOB, durable.sealed({**content, "estimate": {"window_steps": 1}}))
    return Job(path, durable.unsealed(path / JOB) or {})


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "own").mkdir()
    return tmp_path / "own"


def test_nothing_begins_on_a_full_disk(tmp_path: Path, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_job(tmp_path / "jobs")
    queue = Queue(tmp_path / "jobs", own)
    watcher = Supervisor(queue, [Place(0)], own)
    given: list[Any] = []
    monkeypatch.setattr(watcher, "_give", lambda place, job: given.append(job))
    monkeypatch.setattr(supervisor, "hire", lambda *_: object())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1, 1, 1000))
    watcher._hand_out()
    assert not given and "nearly full" in watcher.hold
    with pytest.raises(Refused) as refused:
        Spool(own / "spool", Limits()).check_room(1)
    assert refused.value.code == 507
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1, 1, 10**12))
    watcher._hand_out()
    assert len(given) == 1 and watcher.hold == ""


def test_a_job_that_never_gets_further_is_given_up_and_one_that_does_is_not(
    tmp_path: Path, own: Path, monkeypatch: Any
) -> None:
    a_job(tmp_path / "jobs")
    queue = Queue(tmp_path / "jobs", own)
    [job] = queue.listed()
    watcher = Supervisor(queue, [Place(0)], own)
    steps = iter(range(100))
    monkeypatch.setattr(supervisor, "steps_in", lambda _: next(steps))
    for _ in range(20):
        watcher._settle(job, "its worker was killed by SIGKILL")
        assert job.state == "waiting"
    monkeypatch.setattr(supervisor, "steps_in", lambda _: 50)
    states = []
    for _ in range(supervisor.DEATHS):
        watcher._settle(job, "its worker was killed by SIGKILL")
        states.append(job.state)
    assert states[-1] == "failed" and set(states[:-1]) == {"waiting"}
    assert "its worker was killed by SIGKILL" in job.outcome["message"]
    queue.resume(job)
    assert job.state == "waiting" and not job.attempts()


def test_one_that_runs_out_of_memory_is_tried_once_with_less(tmp_path: Path, own: Path) -> None:
    a_job(tmp_path / "jobs")
    queue = Queue(tmp_path / "jobs", own)
    [job] = queue.listed()
    watcher = Supervisor(queue, [Place(0)], own)
    full = {"state": "failed", "message": "out of memory", "exit_code": 8, "out_of_memory": True, "notes": []}
    job.note("outcome.json", full)
    watcher._settle(job)
    assert job.state == "waiting" and job.render_job.placement.memory == "model"
    job.note("outcome.json", full)
    watcher._settle(job)
    assert job.state == "failed"


def test_order_and_wishes_are_found_again(tmp_path: Path, own: Path) -> None:
    names = [a_job(tmp_path / "jobs", float(n)).id for n in range(4)]
    queue = Queue(tmp_path / "jobs", own)
    queue.move(queue.get(names[3]), "first")
    queue.move(queue.get(names[0]), "after", queue.get(names[1]))
    queue.pause(queue.get(names[2]))
    queue.remove(queue.get(names[1]))
    again = Queue(tmp_path / "jobs", own)
    assert [job.id for job in again.waiting()] == [names[3], names[0]]
    assert again.get(names[2]).state == "paused"
    with pytest.raises(KeyError):
        again.get(names[1])


def test_numbers_of_events_stay_what_they_were(tmp_path: Path) -> None:
    job = a_job(tmp_path)
    told = log.Log(job)
    told.add("queued")
    with told.path.open("a") as file:
        file.write('{"id": 2, "ev')
    told = log.Log(job)
    told.add("started")
    assert [(number, event["event"]) for number, event in log.after(told.path, 0)] == [(1, "queued"), (3, "started")]
    render = job.render_job.folder
    render.mkdir()
    (render / "events.jsonl").write_text('{"event": "started"}\n{"event": "segment"}\n{"torn')
    assert told.relay() and not told.relay()
    assert not log.Log(job).relay()  # a server that comes later doesn't say it twice
    assert [event["render"]["event"] for _, event in log.after(told.path, 3)] == ["started", "segment"]


def test_a_job_that_ended_without_a_server_has_its_last_event_once(tmp_path: Path, own: Path) -> None:
    done, failed = a_job(tmp_path / "jobs"), a_job(tmp_path / "jobs", 2.0)
    done.output.write_bytes(b"video")
    done.note("outcome.json", {"state": "done", "wall_s": 2.0, "video_s": 1.0, "notes": []})
    failed.note("outcome.json", {"state": "failed", "message": "no such file", "hint": "", "exit_code": 4, "notes": []})
    (done.folder / "render-events.jsonl").write_text('{"event": "started"}\n{"event": "finished"}\n')
    for job in (done, failed):
        log.Log(job).add("queued")
    for _ in range(2):  # a server, and the next one
        Queue(tmp_path / "jobs", own)
    told = [[event["event"] for _, event in log.after(job.folder / log.LOG, 0)] for job in (done, failed)]
    assert told == [["queued", "render", "render", "completed"], ["queued", "failed"]]


def test_a_folder_whose_removal_was_cut_off_is_no_job(tmp_path: Path) -> None:
    job = a_job(tmp_path)
    job.note(REMOVING)
    (job.folder / JOB).unlink()
    assert found_in(tmp_path) == ([], []) and not job.folder.exists()


@pytest.mark.parametrize(
    "name", ["", "video_", "video_..", "video_a/b", "video_é" + "a" * 20, "VIDEO_" + "a" * 24, "video_" + "a" * 99]
)
def test_names_that_are_never_looked_for(name: str) -> None:
    assert not is_id(name) and is_id(new_id())
