"""What a server consists of: a folder that it holds, the queue in it, workers, the spool and the presets it offers. READ FIRST.

FOLDER/video_…/        a job: inputs, render folder, video, notes (jobs.py)
FOLDER/.avatarctl-serve/   lock, order of the queue, spool, logs of workers
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from avatarctl import console, durable, ownership
from avatarctl.audio.source import ffmpeg
from avatarctl.batch.local import Place
from avatarctl.errors import AvatarError, BusyError, WeightsError
from avatarctl.paths import EMBEDDED_PICTURES
from avatarctl.render.crop import Framing, frame_apart, require_face
from avatarctl.serve.answers import Refused
from avatarctl.serve.checking import Checker
from avatarctl.serve.guard import guarded
from avatarctl.serve.incoming import Body, Part
from avatarctl.serve.jobs import JOB, PREVIEW, VERSION, Job, new_id
from avatarctl.serve.measuring import Measurer
from avatarctl.serve.queue import Queue
from avatarctl.serve.requests import IMAGES, SOUNDS, Asked, Offer, asked_of
from avatarctl.serve.spool import Limits, Spool, Spooled, shown_name
from avatarctl.serve.supervisor import Supervisor
from avatarctl.serve.view import Views
from avatarctl.settings.check import make
from avatarctl.settings.formats import home_of
from avatarctl.settings.jobs import job_of
from avatarctl.settings.render import AllSettings, RenderJob
from avatarctl.weights import find_weights

OWN = ".avatarctl-serve"
HOLDER = "server.json"
COMING = ".new-"
MOST_KEY = 255
MOST_WAITING = 1000  # jobs in line


@dataclass(frozen=True)
class Serving:
    """How a server is to be: where, for whom, with what."""

    folder: Path
    offers: dict[str, Offer]
    host: str = "127.0.0.1"
    port: int = 7860
    token: str = ""
    allow_hosts: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    loras: Path | None = None
    limits: Limits = field(default_factory=Limits)


class House:
    """A server's folder and what is in it. Use it inside :func:`held`."""

    def __init__(self, serving: Serving, places: list[Place]) -> None:
        self.serving, self.folder = serving, serving.folder
        self.own = serving.folder / OWN
        for leftover in self.own.glob(f"{COMING}*"):
            shutil.rmtree(leftover, ignore_errors=True)  # jobs that a kill cut off before they had their name
        self.spool = Spool(self.own / "spool", serving.limits)
        self.queue = Queue(self.folder, self.own)
        self.views = Views(self.queue)
        self.measurer = Measurer(self.queue)
        self.checker = Checker()
        self.supervisor = Supervisor(self.queue, places, self.own)
        self.began = time.time()
        self.counts = {"requests": 0, "errors": 0, "created": 0, "completed": 0, "failed": 0}
        self._pending: set[str] = set()
        self._lock = threading.Lock()
        self._framings: dict[str, Framing | None] = {}
        ffmpeg()  # says so now, if there is none

    # -- Files -------------------------------------------------------------------------------------------------------

    def keep_file(self, part: Part, expected: str | None = None) -> Spooled:
        """Look at a file that came and take it into the spool; a file of the wrong kind is refused."""
        limits = self.serving.limits
        preview = self.spool.folder / f"{part.writer.path.stem}.jpg"
        try:
            found = self.checker.look(part.writer.path, expected, preview)
            if found["kind"] == "image" and part.writer.bytes > limits.picture_bytes:
                raise Refused(
                    413, f"got a picture of {console.size(part.writer.bytes)}, expected at most "
                    f"{console.size(limits.picture_bytes)}", "save it smaller, or as JPEG"
                )  # fmt: skip
        except (AvatarError, Refused) as problem:
            preview.unlink(missing_ok=True)
            problem.message = named(problem.message, part.writer.path, shown_name(part.filename) or part.field)
            raise
        return self.spool.keep(
            part.writer, found["kind"], _ending(part.filename), shown_name(part.filename), found["facts"]
        )

    # -- Jobs --------------------------------------------------------------------------------------------------------

    def create(self, body: Body, key: str) -> tuple[Job, bool]:
        """Make the job that a request asks for; return it, and whether the same request made it before."""
        if len(key) > MOST_KEY or not key.isprintable():
            raise Refused(400, f"Idempotency-Key: got one that isn't text of at most {MOST_KEY} characters")
        mark = hashlib.sha256(key.encode()).hexdigest() if key else ""
        wish = fingerprint(body)
        with self._lock:
            known = self.queue.jobs.get(self.queue.keys.get(mark, "")) if mark else None
            if known is not None and known.asked["body"] == wish:
                return known, True
            if known is not None:
                raise Refused(
                    422,
                    f"Idempotency-Key: got the key of {known.id} with another request",
                    "use a new key for a new request",
                )
            if mark in self._pending:
                raise Refused(409, "Idempotency-Key: the same request is being worked on", "", {"Retry-After": "1"})
            if len(self.queue.waiting()) >= MOST_WAITING:
                raise Refused(429, f"got {MOST_WAITING} jobs that wait already", "delete some", {"Retry-After": "60"})
            if mark:
                self._pending.add(mark)
        try:
            return self._create(body, mark, wish), False
        finally:
            with self._lock:
                self._pending.discard(mark)

    def _create(self, body: Body, mark: str, wish: str) -> Job:
        asked = self.asked(body)
        name = new_id()
        coming = self.own / f"{COMING}{name}"
        with guarded(self.folder):
            coming.mkdir()
        try:
            job, files, names = self.job_in(coming, asked, body)
            checked = self.checked(job, coming)
            if job.render.face is not None:
                self.framing(job)
            content = json.loads(job.model_dump_json())
            self._write(coming, {
                "version": VERSION, "id": name, "created_at": round(time.time(), 3), "key": mark, "body": wish,
                "user": asked.user, "model": asked.preset, "said": asked.said, "names": names, "files": files,
                "job": content, **checked,
            })  # fmt: skip
            with guarded(self.folder):
                os.replace(coming, self.folder / name)
                durable.flush_folder(self.folder)
        finally:
            if coming.exists():
                shutil.rmtree(coming, ignore_errors=True)
        made = Job(self.folder / name, durable.unsealed(self.folder / name / JOB) or {})
        self.queue.add(made)
        self.counts["created"] += 1
        return made

    def asked(self, body: Body) -> Asked:
        """Return what a request asks for."""
        return asked_of(body.values, body.files, self.serving.offers, self.serving.loras)

    def job_in(self, folder: Path, asked: Asked, body: Body) -> tuple[RenderJob, dict[str, str], dict[str, str]]:
        """Lay the files of a request into a folder; return the job there, and its files by name, and what clients call them."""
        settings = self.serving.offers[asked.preset].settings(asked.settings)
        files = {"output": f"video{home_of(settings.codec)}"}
        names = {}
        for what, given, allowed in (("image", asked.image, IMAGES), ("audio", asked.audio, SOUNDS)):
            if given is None or given in EMBEDDED_PICTURES:
                continue
            came = given in allowed and given in body.files
            kept = self.keep_file(body.files[given], what) if came else self._spooled(given, what)
            files[what] = what + kept.ending
            names[what] = kept.filename
            try:
                self.spool.lend(kept, folder / files[what])
                if what == "image":
                    self.spool.lend_preview(kept, folder / PREVIEW)
            finally:
                if came:  # the job has it now
                    self.spool.remove(kept.id)
        if asked.image in EMBEDDED_PICTURES:
            settings = make(AllSettings, {**settings.model_dump(), "image": asked.image})
        image = folder / files["image"] if "image" in files else settings.image
        if image is None:
            raise Refused(400, "image: missing, and the preset has none of its own", "send a picture of the person")
        job = job_of(settings, image, folder / files["audio"], folder / files["output"], asked.preset)
        return job, files, names

    def picture(self, body: Body, given: str) -> Spooled:
        """Return the picture that a request sends or names, for a look at it."""
        return self.keep_file(body.files[given], "image") if given in body.files else self._spooled(given, "image")

    def bare_job(self, settings: AllSettings, picture: Path, folder: Path, preset: str) -> RenderJob:
        """Return a job without a recording, for a look at how its picture is framed."""
        return job_of(settings, picture, folder / "audio", folder / "video.mp4", preset)

    def size_of(self, kept: Spooled | None, picture: Path) -> tuple[int, int]:
        """Return width and height of a picture as it is read."""
        facts = kept.facts if kept is not None else self.checker.look(picture, "image")["facts"]
        return facts["width"], facts["height"]

    def _spooled(self, name: str, what: str) -> Spooled:
        """Return a file that was uploaded before."""
        try:
            kept = self.spool.get(name)
        except KeyError as error:
            raise Refused(
                400, f"{what}: got {name}, which isn't there (any more)", "upload it: POST /v1/files"
            ) from error
        if kept.kind != what:
            raise Refused(
                400, f"{what}: got {name}, which is of the kind {kept.kind}", f"name a file of the kind {what}"
            )
        return kept

    def checked(self, job: RenderJob, folder: Path) -> dict[str, Any]:
        """Check a job as the start of its render does; return ``estimate`` and ``notes`` without paths of this machine."""
        try:
            found = self.checker.check(job)
        except WeightsError as problem:
            name = job.preset or "its preset"
            raise Refused(
                503, f"model: got {name}, expected one whose weights are there", _fetching(problem)
            ) from problem
        except AvatarError as problem:
            problem.message = named(problem.message, folder, "")
            problem.hint = named(problem.hint, folder, "")
            raise
        return {"estimate": found["estimate"], "notes": [named(note, folder, "") for note in found["notes"]]}

    def framing(self, job: RenderJob) -> Framing | None:
        """Return how the picture of a job is framed; raises ``UsageError`` for a face that it hasn't."""
        key = f"{durable.digest(job.image)} {job.render.size} {job.render.face} {job.render.fit}"
        if key not in self._framings:
            if len(self._framings) > 500:
                self._framings.clear()
            seen = frame_apart([job])[0]
            if seen is not None:  # the same picture comes under many names
                warnings = tuple(named(each, job.image, "the picture") for each in seen.warnings)
                seen = replace(seen, warnings=warnings)
            self._framings[key] = seen
        found = self._framings[key]
        return None if found is None else require_face(found, job)

    def _write(self, folder: Path, content: dict[str, Any]) -> None:
        with guarded(folder):
            durable.replace(folder / JOB, durable.sealed(json.loads(json.dumps(content))), make=False)
            durable.flush_folder(folder)

    # -- What can be asked for -----------------------------------------------------------------------------------------

    def ready(self, offer: Offer) -> str:
        """Return "" for a preset whose weights are there, else what is missing and how to get it."""
        settings = offer.settings({})
        try:
            find_weights(settings.weights, settings.size, settings.variant)
        except WeightsError as problem:
            return f"its weights are missing: {_fetching(problem)}"
        except AvatarError as problem:
            return f"{problem.message}; {problem.hint}"
        return ""


def _fetching(problem: WeightsError) -> str:
    """Return the hint for weights that lack, which a client can't name: what is run on the server's machine."""
    command = re.search(r"`(avatarctl fetch[^`]*)`", problem.hint)
    return (
        f"run `{command[1] if command else 'avatarctl fetch'}` on the server; puppet, the embedded avatar, needs none"
    )


@contextmanager
def held(folder: Path, address: str) -> Iterator[None]:
    """Make a folder and hold it for this server; raises ``BusyError`` that names the server which does."""
    ownership.check_name(folder, "--folder", "a folder for the jobs", "--folder jobs")
    ownership.check_can_make(folder, "--folder")
    own = folder / OWN
    with durable.guarded(
        folder, full="free some space, or choose another --folder", elsewhere="choose another --folder"
    ):
        own.mkdir(parents=True, exist_ok=True)
        lock = FileLock(own / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            other = durable.read_json(own / HOLDER) or {}
            raise BusyError(
                f"{folder}: another server works in this folder (process {other.get('pid', '?')} on {other.get('host', '?')}, "
                f"{other.get('address', '?')})",
                "use that one, stop it, or choose another --folder",
            ) from error
        (own / HOLDER).unlink(missing_ok=True)
        about = {"pid": os.getpid(), "host": socket.gethostname(), "address": address, "since": round(time.time(), 3)}
        with suppress(OSError):  # a full disk: jobs wait until there is space, and clients hear why
            durable.replace(own / HOLDER, durable.to_json(about))
    try:
        yield
    finally:
        lock.release()


def fingerprint(body: Body) -> str:
    """Return what tells a request from any other: its values, and the content of its files."""
    files = {name: part.writer.sha256() for name, part in sorted(body.files.items())}
    return hashlib.sha256(json.dumps([body.values, files], sort_keys=True, default=str).encode()).hexdigest()


def named(text: str, path: Path, name: str) -> str:
    """Return a message in which a place on this machine is called by a name that the client knows."""
    for form in (f"{path}/", str(path)):
        text = text.replace(form, name)
    return text


def _ending(filename: str) -> str:
    """Return an ending for our own name of a file: what decoders like to see, in plain letters, or none."""
    ending = Path(shown_name(filename)).suffix.lower()
    return ending if 1 < len(ending) <= 6 and ending[1:].isalnum() and ending.isascii() else ""
