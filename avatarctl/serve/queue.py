"""The queue: all jobs of a folder in the order in which they are made, what users do with them, and news for who watches."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from avatarctl import console, durable
from avatarctl.errors import AvatarError, BusyError, InputFileError, UsageError
from avatarctl.serve.guard import guarded
from avatarctl.serve.jobs import ATTEMPTS, CANCELLED, PAUSED, REMOVING, Job, found_in
from avatarctl.serve.log import Log

ORDER = "queue.json"
OPEN = ("waiting", "running", "paused")


class Queue:
    """All jobs of a folder. Whatever changes them does it inside ``with queue.lock``."""

    def __init__(self, folder: Path, own: Path) -> None:
        self._order_file = own / ORDER
        self.lock = threading.RLock()
        self.version = 0
        self._line: tuple[int, dict[str, int]] = (-1, {})  # places in the line, as of a version
        self._watchers: list[Callable[[], None]] = []
        found, self.damaged = found_in(folder)
        for path in self.damaged:
            console.note(f"warning: {path}: got a folder with no whole job in it; it is left as it is")
        self.jobs = {job.id: job for job in found}
        self.logs = {job.id: Log(job) for job in found}
        for job in found:
            if job.state in ("done", "failed"):
                self.logs[job.id].end()  # it ended while no server was there to say so
        self.keys = {job.asked["key"]: job.id for job in found if job.asked.get("key") and job.state != "removing"}
        try:
            order = (durable.unsealed(self._order_file) or {}).get("order", [])
        except OSError as error:
            console.note(f"warning: {self._order_file}: can't be read ({error}): the oldest jobs come first")
            order = []
        known = [name for name in order if name in self.jobs]
        self.order = [*known, *(name for name in self.jobs if name not in set(known))]

    # -- News --------------------------------------------------------------------------------------------------------

    def watch(self, tell: Callable[[], None]) -> None:
        """Call ``tell`` after every change, from whichever thread."""
        self._watchers.append(tell)

    def news(self, job: Job | None = None) -> None:
        """Tell everybody that something changed: a job, or with None the queue as a whole."""
        with self.lock:
            self.version += 1
            if job is not None:
                job.changed = self.version
        for tell in list(self._watchers):
            tell()

    # -- Reading -----------------------------------------------------------------------------------------------------

    def get(self, name: str) -> Job:
        """Return a job by its name; raises ``KeyError`` for one that isn't there, or is being removed."""
        job = self.jobs[name]
        if job.state == "removing":
            raise KeyError(name)
        return job

    def listed(self) -> list[Job]:
        """Return all jobs, the oldest first."""
        with self.lock:
            return [job for job in self.jobs.values() if job.state != "removing"]

    def waiting(self) -> list[Job]:
        """Return the jobs that wait for a worker, the next one first."""
        with self.lock:
            return [job for name in self.order if (job := self.jobs.get(name)) and job.state == "waiting"]

    def position(self, job: Job) -> int | None:
        """Return the number of a waiting job in the line: 1 is next."""
        with self.lock:
            if self._line[0] != self.version:
                self._line = self.version, {each.id: place for place, each in enumerate(self.waiting(), 1)}
            return self._line[1].get(job.id)

    # -- Changing ----------------------------------------------------------------------------------------------------

    def add(self, job: Job) -> None:
        """Take in a new job, whose folder is complete."""
        with self.lock:
            self.jobs[job.id] = job
            self.order.append(job.id)
            self.logs[job.id] = Log(job)
            if job.asked.get("key"):
                self.keys[job.asked["key"]] = job.id
            self.logs[job.id].add("queued")
        self.news(job)

    def pause(self, job: Job) -> None:
        """Let a job wait until it is resumed; one at work saves what it has first."""
        with self._changing(job, "pause", OPEN):
            if job.state != "paused":
                job.note(PAUSED)
                self._put(job, "paused")
                self.logs[job.id].add("paused")

    def resume(self, job: Job) -> None:
        """Put a paused, cancelled or failed job back in line: it continues from what is saved."""
        with self._changing(job, "resume", ("waiting", "running", "paused", "cancelled", "failed")):
            before = job.state
            job.forget(PAUSED, CANCELLED)
            if job.state == "failed":
                job.forget(ATTEMPTS, "outcome.json")
                job.outcome = {}
            if before not in ("waiting", "running"):
                self._put(job, "waiting")
                self.logs[job.id].add("resumed")

    def cancel(self, job: Job) -> None:
        """Give a job up; what is saved of it stays until it is removed, and it can be resumed."""
        with self._changing(job, "cancel", (*OPEN, "cancelled", "failed")):
            if job.state not in ("cancelled", "failed"):
                job.note(CANCELLED)
                self._put(job, "cancelled")
                self.logs[job.id].add("cancelled")

    def remove(self, job: Job) -> None:
        """Mark a job for removal; the supervisor removes it once nobody is at work in it."""
        with self.lock:
            job.note(REMOVING)
            job.state = "removing"
            self.keys.pop(job.asked.get("key") or "", None)
        self.news(job)

    def move(self, job: Job, to: str, other: Job | None = None) -> None:
        """Put a waiting or paused job to another place in the line: first, last, or before or after another."""
        if other is job:
            raise UsageError(f"{to}: got {job.id} itself, expected another job", "name another one")
        with self._changing(job, "move", ("waiting", "paused")):
            order = [name for name in self.order if name != job.id and name in self.jobs]
            if to == "first":
                place = 0
            elif other is None:
                place = len(order)
            else:
                place = order.index(other.id) + (to == "after")
            order.insert(place, job.id)
            with guarded(self._order_file.parent):
                durable.replace(self._order_file, durable.sealed({"order": order}), make=False)
            self.order = order
            self.logs[job.id].add("moved", position=self.position(job))

    def _put(self, job: Job, state: Literal["waiting", "paused", "cancelled"]) -> None:
        """Take in what a user wants. A job at work stays "running" until its worker has saved it."""
        if job.place is None and job.state != "running":
            job.state = state

    @contextmanager
    def _changing(self, job: Job, verb: str, states: tuple[str, ...]) -> Iterator[None]:
        with self.lock:
            if self.jobs.get(job.id) is not job or job.state == "removing":
                raise InputFileError(f"{job.id}: got a job that was removed, expected one that is there")
            if job.state not in states:
                raise BusyError(
                    f"{job.id}: got a job that is {WORDS[job.state]}, which can't be {PAST[verb]}", HINTS.get(verb, "")
                )
            if verb == "pause" and (job.folder / CANCELLED).exists():
                raise BusyError(f"{job.id}: got a job that is being cancelled, which can't be paused", "resume it")
            try:
                yield
            except AvatarError:  # of the disk: the files say how far it came
                if job.place is None and job.state != "running":
                    with suppress(OSError):
                        job.state = job.look()
                raise
        self.news(job)


WORDS: dict[str, str] = {
    "waiting": "queued",
    "running": "in progress",
    "done": "completed",
    "removing": "being removed",
    **{name: name for name in ("paused", "cancelled", "failed")},
}
PAST = {"pause": "paused", "resume": "resumed", "cancel": "cancelled", "move": "moved"}
HINTS = {
    "move": "pause it first: what waits can be moved",
    "cancel": "delete it instead",
    "pause": "what is queued or in progress can be paused",
    "resume": "what is paused, cancelled or failed can be resumed",
}


def asked_of(job: Job) -> dict[str, Any]:
    """Return what users want of a job that is still at work: pausing, cancelling."""
    wishes = {"paused": PAUSED, "cancelled": CANCELLED}
    return {name: True for name, file in wishes.items() if (job.folder / file).exists()}


def now() -> float:
    """Return the time, for notes."""
    return round(time.time(), 3)
