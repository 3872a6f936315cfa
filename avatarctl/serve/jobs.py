"""A job as files: a folder with its inputs, what was asked, its render folder, and durable notes of what became of it.

The state of a job is what its files say, so that a server that is killed at any instant finds it again:
``job.json`` (what is asked, sealed; written before the folder gets its name), ``paused.json``, ``cancelled.json``,
``removing.json`` (what the user wants), ``outcome.json`` (how it ended, written by the worker), ``attempts.json``.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from avatarctl import durable, ownership
from avatarctl.batch.history import STATE as RECORDS
from avatarctl.batch.history import lock_path, record_path
from avatarctl.batch.items import Item
from avatarctl.batch.notes import OUTCOME, PROGRESS, RENDER_EVENTS
from avatarctl.batch.work import tidy
from avatarctl.errors import AvatarError
from avatarctl.render.folder import RenderFolder
from avatarctl.serve.guard import guarded
from avatarctl.settings.render import RenderJob

JOB, PAUSED, CANCELLED, REMOVING, ATTEMPTS = (
    "job.json",
    "paused.json",
    "cancelled.json",
    "removing.json",
    "attempts.json",
)
LOG = "events.jsonl"
PREFIX = "video_"
VERSION = 1
# Pictures and sound that are made for the page from what is there, and can be made again.
PREVIEW = "preview.jpg"
EVALUATION = "evaluation.json"
DERIVED = (PREVIEW, "thumbnail.jpg", "spritesheet.jpg", "now.jpg", "live.m4a", EVALUATION)

State = Literal["waiting", "running", "paused", "cancelled", "failed", "done", "removing"]


@dataclass
class Job:
    """One job: what was asked (``asked``: the content of job.json), and how far it is."""

    folder: Path
    asked: dict[str, Any]
    state: State = "waiting"
    outcome: dict[str, Any] = field(default_factory=dict)
    progress: dict[str, Any] = field(default_factory=dict)
    place: int | None = None
    """Number of the place whose worker makes it; None while nobody or somebody else does."""
    started_at: float | None = None
    measuring: bool = False
    changed: int = 0
    """Counts changes, for those who watch."""

    @property
    def id(self) -> str:
        """The name by which clients know it."""
        return self.folder.name

    @property
    def render_job(self) -> RenderJob:
        """The job of its render; files that came with the request lie in the folder."""
        job = RenderJob.model_validate_json(json.dumps(self.asked["job"]))
        files = {name: self.folder / file for name, file in self.asked["files"].items()}
        return job.model_copy(update={**files, **self._lowered(job)})

    def _lowered(self, job: RenderJob) -> dict[str, Any]:
        memory = self.attempts().get("memory")
        return {"placement": job.placement.model_copy(update={"memory": memory})} if memory else {}

    @property
    def item(self) -> Item:
        """The item that workers of a batch make."""
        job = self.render_job
        return Item(0, job.output.name, job, self.id)

    @property
    def output(self) -> Path:
        """The finished video."""
        return self.folder / str(self.asked["files"]["output"])

    def attempts(self) -> dict[str, Any]:
        """Return how often it failed without getting any further, and what was changed for that."""
        return durable.unsealed(self.folder / ATTEMPTS) or {}

    def note(self, name: str, content: Mapping[str, Any] | None = None) -> None:
        """Write a durable note."""
        with guarded(self.folder):
            durable.replace(self.folder / name, durable.sealed(content or {"at": round(time.time(), 3)}), make=False)

    def forget(self, *names: str) -> None:
        """Remove notes."""
        with guarded(self.folder):
            for name in names:
                (self.folder / name).unlink(missing_ok=True)
            durable.flush_folder(self.folder)

    def busy(self) -> bool:
        """Return whether some process makes the video now: a worker, or somebody who resumed the render by hand."""
        render = RenderFolder(self.render_job.folder)
        if render.exists() and render.busy():
            return True
        path = lock_path(self.item)
        if not path.exists():
            return False
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except (Timeout, OSError):
            return True
        lock.release()
        return False

    def look(self) -> State:
        """Return the state that the files say, and take in what they say of the outcome; decides nothing."""
        has = {name: (self.folder / name).exists() for name in (REMOVING, CANCELLED, PAUSED)}
        self.outcome = self._outcome()
        if has[REMOVING]:
            return "removing"
        if self.outcome.get("state") == "done":
            return "done"
        if self.busy():
            return "running"
        if has[CANCELLED]:
            return "cancelled"
        if self.outcome.get("state") == "failed":
            return "failed"
        return "paused" if has[PAUSED] else "waiting"

    def _outcome(self) -> dict[str, Any]:
        """Return how it ended. A kill after the video's record and before the note of the outcome is no loss."""
        outcome = durable.unsealed(self.folder / OUTCOME) or {}
        if outcome.get("state") == "done":
            if self.output.is_file():
                return outcome
            told = {"message": f"{self.output.name}: the video is gone from its folder", "exit_code": 4}
            return {**outcome, **told, "state": "failed", "hint": "resume the job to render it again"}
        if self.output.is_file() and not outcome:
            path = record_path(self.item)
            record = durable.unsealed(path)
            if record is not None:
                facts: dict[str, Any] = {name: record[name] for name in ("video_s", "window_steps") if name in record}
                return {"state": "done", "at": path.stat().st_mtime, "wall_s": None, "notes": [], **facts}
        return outcome

    def read_progress(self) -> dict[str, Any]:
        """Return what a worker noted last of its progress."""
        return durable.read_json(self.folder / PROGRESS) or {}

    def begun(self) -> bool:
        """Return whether its render was begun."""
        return (self.render_job.folder / "render.json").is_file()


def new_id() -> str:
    """Return a name that nobody can guess."""
    return PREFIX + secrets.token_hex(12)


def is_id(name: str) -> bool:
    """Return whether a text may be the name of a job: nothing else is ever looked for on the disk."""
    rest = name.removeprefix(PREFIX)
    return name.startswith(PREFIX) and 8 <= len(rest) <= 64 and rest.isascii() and rest.isalnum()


def found_in(folder: Path) -> tuple[list[Job], list[Path]]:
    """Return the jobs in a folder, the oldest first, and folders that are named like one and hold none."""
    jobs, damaged = [], []
    for path in sorted(folder.iterdir()):
        if not is_id(path.name) or not path.is_dir() or path.is_symlink():
            continue
        if (path / REMOVING).exists() and not (path / JOB).exists():
            (path / REMOVING).unlink()  # a kill while it was removed
        try:
            asked = durable.unsealed(path / JOB)
            job = Job(path, asked) if asked is not None and asked.get("version") == VERSION else None
            if job is not None:
                job.state = job.look()
        except (ValueError, KeyError, OSError, AvatarError):  # settings of another version, unreadable files
            job = None
        if job is None:
            if any(path.iterdir()):
                damaged.append(path)
            else:
                path.rmdir()  # what a kill left of a removed job
            continue
        jobs.append(job)
    return sorted(jobs, key=lambda job: (job.asked["created_at"], job.id)), damaged


def remove(job: Job) -> list[str]:
    """Remove a job and its video; return what somebody else laid into its folder, which stays. Nobody may be at work in it."""
    item, folder = job.item, job.folder
    tidy(item)
    own = {*job.asked["files"].values(), OUTCOME, PROGRESS, RENDER_EVENTS, *DERIVED, item.job.output.stem + ".jpg"}
    own |= {PAUSED, CANCELLED, ATTEMPTS, LOG, f"{RECORDS}/", f"{item.job.output.stem}.jpg"}
    record, lock = record_path(item).name, lock_path(item).name
    own |= {f"{RECORDS}/{record}", f"{RECORDS}/{lock}"}

    def is_own(name: str) -> bool:
        return name in own or ownership.own_part(name, lambda part: part in own or part in (JOB, REMOVING))

    # The note that it is being removed goes last: a kill meanwhile leaves no job that waits.
    ownership.remove_own(folder, lambda name: is_own(name) or name in (JOB, REMOVING), (JOB, REMOVING))
    left = sorted(entry.name for entry in folder.iterdir())
    if not left:
        folder.rmdir()
        durable.flush_folder(folder.parent)
    return left
