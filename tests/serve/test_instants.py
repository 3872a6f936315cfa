"""Tests with a server that is killed, or meets a full disk, at each of its writes: what it finds again is whole."""

from __future__ import annotations

import json
import os
import signal
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from running import PICTURE, VOICE
from server import plant

from avatarctl import durable
from avatarctl.batch.local import Place
from avatarctl.errors import AvatarError
from avatarctl.serve.answers import Refused
from avatarctl.serve.house import House, Serving
from avatarctl.serve.incoming import Body, Part
from avatarctl.serve.jobs import REMOVING, Job
from avatarctl.serve.requests import offers_of

KEY = "the same request"
ESTIMATE = {"video_s": 1.0, "time_s": None, "time_basis": "", "passes": 1, "window_steps": 1, "memory_bytes": 1,
            "video_bytes": 1}  # fmt: skip
STEP = int(os.environ.get("EVERY_WRITE", "4"))  # 1: every write meets the fault, else some of them


class Known:
    """Says what the process that looks at files says of these: they are the samples."""

    def look(self, path: Path, expected: str | None, preview: Path | None = None) -> dict[str, Any]:
        if preview is not None and expected == "image":
            with suppress(OSError):
                preview.write_bytes(b"\xff\xd8\xff")
        return {"kind": expected or "audio", "facts": {}}

    def check(self, _: Any) -> dict[str, Any]:
        return {"estimate": ESTIMATE, "notes": []}

    def close(self) -> None:
        return


def opened(folder: Path) -> House:
    """Return the house of a folder, as a server that starts there has it."""
    (folder / ".avatarctl-serve").mkdir(parents=True, exist_ok=True)
    house = House(Serving(folder, offers_of(["puppet"])), [Place(0)])
    house.checker = Known()  # type: ignore[assignment]
    return house


def sent(house: House) -> Body:
    """Return a request whose files have come."""
    body = Body({"steps": "1", "seconds": "0.2"})
    for name, path in (("image", PICTURE), ("audio", VOICE)):
        writer = house.spool.begin()
        writer.write(path.read_bytes())
        writer.close()
        body.files[name] = Part(name, path.name, "", writer)
    return body


def ask(house: House) -> Job:
    """Create the job of a request, which has a key."""
    body = sent(house)
    try:
        return house.create(body, KEY)[0]
    finally:
        body.drop()


def all_verbs(folder: Path) -> None:
    """Do with jobs and files what clients do; what the disk refuses is an error of ours."""
    house = opened(folder)
    queue = house.queue
    [old] = queue.listed()
    made: list[Job] = []

    def upload() -> None:
        body = sent(house)
        house.spool.remove(house.keep_file(body.files["audio"]).id)
        body.drop()

    def each(verb: Callable[[Job], None]) -> None:
        for job in made:
            verb(job)

    def remove(job: Job) -> None:
        queue.remove(job)
        house.supervisor._look()

    for work in (upload, lambda: made.append(ask(house)), lambda: each(queue.pause), lambda: each(queue.resume),
                 lambda: each(lambda job: queue.move(job, "first")), lambda: each(queue.cancel),
                 lambda: queue.move(old, "last"), lambda: each(remove)):  # fmt: skip
        try:
            work()
        except (AvatarError, Refused) as error:
            assert str(folder) not in getattr(error, "message", "")


def faulty(folder: Path, fault: str, at: int) -> int:
    """Do all verbs in a process of its own that meets a fault at a write; return how it ended."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            seen = plant({"fault": fault, "folder": str(folder), "at": at})
            all_verbs(folder)
            status = 0 if seen() >= at else 99
        finally:
            if status == 1:
                (folder.parent / "traceback.txt").write_text(traceback.format_exc())
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def check(folder: Path, old: str) -> None:
    """Check what the next server finds: whole jobs, the order, no leftovers; and that the request can be made again."""
    house = opened(folder)
    assert house.queue.damaged == [] and old in house.queue.jobs
    assert sorted(house.queue.order) == sorted(house.queue.jobs)
    own = folder / ".avatarctl-serve"
    assert not [path for path in folder.rglob("*") if path.name.startswith(".new-")]
    assert not list((own / "spool").glob("*.part"))
    files = {path.name for path in (own / "spool").iterdir()}
    assert all(f"{name[:29]}.json" in files and name[:29] in files for name in files)
    known = {job.id for job in house.queue.listed()} - {old}
    again = ask(house)
    assert not known or known == {again.id}  # the request that was answered by a kill is the same video
    if not known:
        assert again.id in house.queue.jobs
    job = house.queue.get(again.id)
    assert durable.unsealed(job.folder / "job.json") and all(
        (job.folder / name).is_file() for what, name in job.asked["files"].items() if what != "output"
    )
    assert not (job.folder / REMOVING).exists()
    json.loads(json.dumps(job.asked))


@pytest.mark.parametrize("fault", ["kill", "full"])
def test_whatever_a_fault_leaves_is_whole(tmp_path: Path, fault: str) -> None:
    at, met = 1, 0
    while True:
        folder = tmp_path / str(at) / "jobs"
        old = ask(opened(folder)).id
        durable.replace(folder / old / "job.json", other_key(folder / old / "job.json"))
        status = faulty(folder, fault, at)
        said = folder.parent / "traceback.txt"
        assert not said.exists(), (at, said.read_text())
        assert status in (99, -signal.SIGKILL if fault == "kill" else 0), (at, status)
        check(folder, old)
        if status == 99:
            break
        met += 1
        at += STEP
    assert met * STEP > 30


def other_key(path: Path) -> bytes:
    """Return a job as another request would have made it."""
    content = durable.unsealed(path) or {}
    return durable.sealed({**content, "key": "", "body": ""})
