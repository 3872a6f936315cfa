"""Keep workers busy with the jobs of a queue: hand out, hear, settle what ended, and find what outlived an earlier server.

A thread of its own. Workers are those of a batch, one per place, with weights loaded once; they finish their job when the
server is killed. What became of a job is read from its files alone, so that it makes no difference who was there to hear it.
"""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from filelock import FileLock, Timeout

from avatarctl import console
from avatarctl.batch.local import Place, dismiss, hire, log_of
from avatarctl.batch.notes import OUTCOME, PROGRESS
from avatarctl.batch.work import lower_memory
from avatarctl.batch.worker import LOCK, OUTLIVE, STOP, to_line
from avatarctl.errors import AvatarError, BusyError, DeviceError
from avatarctl.render.standing import steps_in
from avatarctl.serve.jobs import ATTEMPTS, CANCELLED, PAUSED, REMOVING, Job, remove
from avatarctl.serve.queue import Queue, now

TICK_S, LOOK_S = 0.25, 0.5
FLOOR_BYTES = 256 << 20  # with less space than this, no job begins
DEATHS = 5  # so often a job's worker may die, or its device fail, without getting any further
LONGEST_WAIT_S = 60.0
MOST_LOG_BYTES = 8 << 20


class Supervisor(threading.Thread):
    """The thread that makes the jobs of a queue."""

    def __init__(self, queue: Queue, places: Sequence[Place], own: Path) -> None:
        super().__init__(name="supervisor", daemon=True)
        self.queue, self.places, self._own = queue, places, own
        self.hold = ""
        """Why no job begins, if so."""
        self.ended_well = False
        self._answers: SimpleQueue[tuple[Place, dict[str, Any] | None]] = SimpleQueue()
        self._closing = threading.Event()
        self._jobs: dict[int, Job] = {}  # number of a place -> the job that its worker makes
        self._looked = 0.0
        self._said = ""
        self._not_before: dict[int, float] = {}  # number of a place -> when it may have a worker again
        self.after: list[Callable[[], None]] = []
        """Called when the thread ends, for whatever reason."""

    def stop(self) -> None:
        """Let every worker save what it has and end; then this thread ends."""
        self._closing.set()

    def run(self) -> None:
        """Make jobs until :meth:`stop`."""
        try:
            while not self._closing.is_set():
                try:
                    self._hear(TICK_S)
                    if time.monotonic() - self._looked >= LOOK_S:
                        self._look()
                    self._hand_out()
                except OSError as error:  # of the disk, or no process can be started: another look in a moment
                    self._say(f"warning: {self._own.parent}: {error}; trying again")
                    self._closing.wait(LOOK_S)
            self._close()
            self.ended_well = True
        finally:
            for tell in self.after:
                tell()

    def _say(self, text: str) -> None:
        """Tell the operator something, once."""
        if text != self._said:
            self._said = text
            console.note(text)

    # -- Workers -----------------------------------------------------------------------------------------------------

    def _hand_out(self) -> None:
        for place in self.places:
            waiting = self.queue.waiting()
            if not waiting or self._held():
                return
            if place.number in self._jobs or time.monotonic() < self._not_before.get(place.number, 0.0):
                continue
            if place.process is None:
                if self._taken(place):
                    continue
                self._bound_log(log_of(self._own, place))
                words = (OUTLIVE, f"{LOCK}{self._lock(place)}")
                place.process = hire(place, self._own, self._answers, words)
            if waiting[0].folder.is_dir():
                self._give(place, waiting[0])

    def _give(self, place: Place, job: Job) -> None:
        with self.queue.lock:
            if job.state != "waiting":
                return
            job.forget(PROGRESS)
            job.state, job.place, job.started_at = "running", place.number, now()
            job.progress = {"stage": "starting"}
            self._jobs[place.number] = job
            self.queue.logs[job.id].add("started")
        self.queue.news(job)
        assert place.process is not None and place.process.stdin is not None
        try:
            place.process.stdin.write(to_line(job.item, redo=False, notes=job.folder) + "\n")
            place.process.stdin.flush()
        except BrokenPipeError:
            return  # it died: its listener says so

    @staticmethod
    def _bound_log(path: Path) -> None:
        """Put a long log aside, in the place of the one before."""
        with suppress(OSError):
            if path.stat().st_size > MOST_LOG_BYTES:
                path.replace(path.with_suffix(".old.log"))

    def _taken(self, place: Place) -> bool:
        """Return whether a worker of an earlier server still works at a place."""
        lock = FileLock(self._lock(place))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
        return False

    def _lock(self, place: Place) -> Path:
        return self._own / f"place-{place.number}.lock"

    def _held(self) -> bool:
        free = shutil.disk_usage(self._own).free
        hold = ""
        if free < FLOOR_BYTES:
            hold = f"the disk is nearly full ({console.size(free)} free): jobs wait until there is space"
        if hold != self.hold:
            self.hold = hold
            if hold:
                console.note(f"{self._own.parent}: {hold}")
            self.queue.news()
        return bool(hold)

    # -- What comes back -----------------------------------------------------------------------------------------------

    def _hear(self, seconds: float) -> None:
        """Take in what workers say, waiting a moment for the first of it."""
        try:
            place, answer = self._answers.get(timeout=seconds)
        except Empty:
            return
        job = self._jobs.get(place.number)
        if answer is not None and "outcome" not in answer:
            if job is not None:
                self._progress(job, answer)
            return
        if answer is None:
            assert place.process is not None
            code, place.process = place.process.wait(), None
            if job is None:
                return  # it was dismissed, or had nothing to do
            self._jobs.pop(place.number, None)
            place.deaths += 1
            self._not_before[place.number] = time.monotonic() + min(2.0 ** (place.deaths - 1), LONGEST_WAIT_S)
            ended = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
            self._settle(job, f"its worker {ended} (see {log_of(self._own, place)})")
        elif job is not None:
            self._jobs.pop(place.number, None)
            place.deaths = 0
            self._settle(job)

    def _progress(self, job: Job, facts: dict[str, Any]) -> None:
        with self.queue.lock:
            known = {name: value for name, value in facts.items() if name in ("stage", "left_s", "video_s") and value}
            if facts.get("total"):
                known |= {"done": facts["done"], "total": facts["total"]}
            if job.progress == {**job.progress, **known}:
                return
            job.progress = {**job.progress, **known}
        self.queue.news(job)

    def _look(self) -> None:
        """Look at what nobody tells: jobs at work elsewhere, events of renders, jobs to remove."""
        self._looked = time.monotonic()
        for job in list(self.queue.jobs.values()):
            if not job.folder.is_dir():
                if job.place is None:
                    self._forget(job, f"{job.folder}: was deleted or moved, and is no job any more")
            elif job.state == "removing":
                if job.id not in {each.id for each in self._jobs.values()} and not job.busy():
                    self._remove(job)
            elif job.state == "running":
                if self.queue.logs[job.id].relay():
                    self.queue.news(job)
                if job.place is None:
                    self._progress(job, job.read_progress())
                    if not job.busy():
                        self._settle(job)

    def _remove(self, job: Job) -> None:
        try:
            left = remove(job)
        except (BusyError, OSError) as error:
            console.note(f"warning: {job.folder}: can't be removed yet ({error})")
            return
        self._forget(job, f"{job.folder}: removed, but {', '.join(left)} is not of this job and stays" if left else "")

    def _forget(self, job: Job, why: str) -> None:
        if why:
            console.note(why)
        with self.queue.lock:
            self.queue.jobs.pop(job.id, None)
            self.queue.logs.pop(job.id, None)
            if job.id in self.queue.order:
                self.queue.order.remove(job.id)
        self.queue.news()

    # -- How a job ended -----------------------------------------------------------------------------------------------

    def _settle(self, job: Job, death: str = "") -> None:
        """Take in how a job stands now that its worker is done with it. ``death``: how the worker ended, if it did."""
        job.place = None  # if this fails, the next look settles it
        log = self.queue.logs[job.id]
        log.relay()
        with self.queue.lock:
            try:
                state = self._state_after(job, death)
            except AvatarError as error:  # a note that can't be written
                console.note(f"{job.id}: {error.message}")
                state = job.look()
            if state == "running" and death:
                state = "waiting"
            # The event first: who sees the state finds it.
            if state in ("done", "failed"):
                log.end()
            elif state != "running":
                log.add("stopped", why=death or job.outcome.get("message", ""))
            if state not in ("failed", "done"):
                job.outcome = {}
            job.state = state
        self.queue.news(job)

    def _state_after(self, job: Job, death: str) -> Any:
        job.look()
        outcome = job.outcome
        if outcome.get("state") == "done":
            job.note(OUTCOME, {"at": now(), **outcome})
        elif outcome.get("state") == "stopped":
            job.forget(OUTCOME)
        elif outcome.get("state") == "failed":
            if self._again(job, outcome):
                job.forget(OUTCOME)
        elif death and not _wanted(job) and not self._further(job, {}):
            told = {
                "state": "failed",
                "message": f"{death}, {DEATHS} times at the same place",
                "hint": "resume the job",
            }
            job.note(OUTCOME, {**told, "exit_code": 1, "at": now(), "notes": []})
        return job.look()

    def _again(self, job: Job, outcome: dict[str, Any]) -> bool:
        """Return whether a job that failed is worth another attempt, which is noted."""
        if outcome.get("out_of_memory"):
            mode = lower_memory(job.render_job.placement.memory)
            if mode is not None and not job.attempts().get("memory"):
                job.note(ATTEMPTS, {"memory": mode})
                console.note(f"{job.id}: out of memory, again with --memory {mode}")
                return True
            return False
        code = outcome.get("exit_code")
        if code == BusyError.exit_code:
            return True  # somebody resumed it by hand, and is at it
        if code == DeviceError.exit_code and "disk is full" in str(outcome.get("message")):
            return shutil.disk_usage(self._own).free < 2 * FLOOR_BYTES  # all wait until there is space
        return code in (1, DeviceError.exit_code) and self._further(job, {"memory": job.attempts().get("memory")})

    def _further(self, job: Job, facts: dict[str, Any]) -> bool:
        """Count an attempt that ended badly; return whether there shall be another: not after so many without any progress."""
        before = job.attempts()
        steps = steps_in(job.render_job.folder)
        failures = 1 if steps > before.get("steps", -1) else before.get("failures", 0) + 1
        job.note(ATTEMPTS, {**before, **facts, "steps": steps, "failures": failures})
        return failures < DEATHS

    # -- The end -------------------------------------------------------------------------------------------------------

    def _close(self) -> None:
        """Let the workers save what they have, and wait for them."""
        for place in self.places:
            if place.process is not None and place.process.stdin is not None:
                try:
                    place.process.stdin.write(STOP + "\n")
                except BrokenPipeError:
                    continue
                dismiss(place)
        while any(place.process is not None for place in self.places):
            self._hear(TICK_S)


def _wanted(job: Job) -> bool:
    """Return whether a user asked for the job to stop."""
    return any((job.folder / name).exists() for name in (PAUSED, CANCELLED, REMOVING))
