"""Measure finished videos as `avatarctl evaluate` does, one at a time, in a process of its own that lets renders go first."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from avatarctl.serve.answers import Refused
from avatarctl.serve.jobs import EVALUATION, Job
from avatarctl.serve.queue import Queue

PATIENCE_S = 3600.0
SHOWN = 60  # numbers of a row at most


def can_measure() -> bool:
    """Return whether this version of the program measures videos."""
    return importlib.util.find_spec("avatarctl.evaluation.evaluate") is not None


class Measurer:
    """Measures the videos that are asked for, in their order."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._waiting: SimpleQueue[Job] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def ask(self, job: Job) -> None:
        """Measure a finished video; its row is there some time later."""
        if not can_measure():
            raise Refused(501, "this version of avatarctl doesn't measure videos", "pip install --upgrade avatarctl")
        if job.state != "done":
            raise Refused(
                409, f"{job.id}: got a video that isn't finished, expected one to measure", "wait for its end"
            )
        with self._lock:
            if job.measuring:
                return
            job.measuring = True
            self._waiting.put(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="measurer", daemon=True)
                self._thread.start()
        self._queue.news(job)

    def _work(self) -> None:
        while True:
            job = self._waiting.get()
            row = measured(job)
            if job.folder.is_dir() and job.state == "done":
                job.note(EVALUATION, row)
            job.measuring = False
            self._queue.news(job)


def measured(job: Job) -> dict[str, Any]:
    """Return the row of a video, flat, or ``error`` with the reason why there is none."""
    render = job.render_job
    words = ["evaluate", str(job.output), "--reference", str(render.image), "--device", "cpu", "--json", "--quiet"]
    root = str(Path(__file__).parents[2])
    search = os.pathsep.join(part for part in (os.environ.get("PYTHONPATH"), root) if part)
    nice = ["nice", "-n", "10"] if os.name == "posix" else []
    try:
        done = subprocess.run(
            [*nice, sys.executable, "-P", "-m", "avatarctl", *words],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            env={**os.environ, "PYTHONPATH": search},
            check=False,
        )
        content = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return {"error": f"the video can't be measured ({type(error).__name__})"}
    rows = (content.get("data") or {}).get("videos") or []
    if not rows:
        problems = content.get("errors") or [{"message": "no reason was given"}]
        return {"error": str(problems[0]["message"]).replace(f"{job.folder}/", "")}
    findings = "; ".join(str(each["text"]) for each in rows[0].get("findings", ()))
    return {**dict(list(_flat(rows[0]).items())[:SHOWN]), "findings": findings.replace(f"{job.folder}/", "")}


def _flat(row: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Return the numbers and words of a row by dotted names, without paths and lists."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{before}{name}.")
        elif isinstance(value, int | float | str | bool) and name not in ("path", "sha256"):
            found[before + name] = value
    return found
