"""The events of a job, one line each in its folder: numbered for clients that come again, with those of its render among them.

Only the server writes it. Events of the render are copied from the render's own log, by their place in it, so that a server
that comes later continues where the last one was killed.
"""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

from avatarctl import jsontext
from avatarctl.batch.notes import RENDER_EVENTS
from avatarctl.render.ours import EVENTS
from avatarctl.serve.jobs import LOG, Job

MOST_BYTES = 1 << 20  # of a render's log that are read at once


class Log:
    """The log of one job. ``count``: the number of the last event; ``last``: the last one that isn't of its render."""

    def __init__(self, job: Job) -> None:
        self.path, self._job = job.folder / LOG, job
        self._lock = threading.Lock()
        lines = self._lines()
        self.count = len(lines)
        told = [_parsed(line) for line in lines]
        places = [place for each in told if isinstance(place := each.get("render_bytes"), int)]
        self._render_bytes = max(places, default=0)
        self.last = next((each["event"] for each in reversed(told) if each.get("event", "render") != "render"), "")

    def _lines(self) -> list[bytes]:
        """Return all lines; a torn last one is ended, so that numbers stay what they were."""
        try:
            content = self.path.read_bytes()
        except OSError:
            return []  # none yet, or something else has its name
        if content and not content.endswith(b"\n"):
            with self.path.open("ab") as file:
                file.write(b"\n")
        return content.splitlines()

    def add(self, event: str, **facts: Any) -> None:
        """Append an event. The log is for people and programs that watch: a full disk costs a line of it, no video."""
        with self._lock:
            self._append([{"time": round(time.time(), 3), "event": event, **facts}])
            self.last = event

    def end(self) -> None:
        """Append how the job ended, with what its render said until then, unless that stands there already."""
        outcome = self._job.outcome
        event = {"done": "completed", "failed": "failed"}[outcome["state"]]
        while self.relay():
            pass
        if self.last != event:
            names = ("wall_s", "video_s") if event == "completed" else ("message", "hint")
            self.add(event, **{name: outcome.get(name) for name in names})

    def relay(self) -> bool:
        """Copy what is new in the log of the render; return whether there was anything."""
        with self._lock:
            render = self._job.render_job.folder / EVENTS
            source = render if render.exists() else self._job.folder / RENDER_EVENTS
            try:
                if source.stat().st_size < self._render_bytes:
                    self._render_bytes = 0  # another render began in its place
                with source.open("rb") as file:
                    file.seek(self._render_bytes)
                    content = file.read(MOST_BYTES)
            except OSError:
                return False
            whole = content[: content.rfind(b"\n") + 1]
            place, found = self._render_bytes, []
            for line in whole.splitlines(keepends=True):
                place += len(line)
                told = _parsed(line)
                if told:
                    found.append({"time": told.get("time"), "event": "render", "render": told, "render_bytes": place})
            if found:
                self._append(found)
            self._render_bytes = place
            return bool(found)

    def _append(self, events: list[dict[str, Any]]) -> None:
        text = "".join(jsontext.dumps({"id": self.count + n, **event}) + "\n" for n, event in enumerate(events, 1))
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError:
            return
        self.count += len(events)


def after(path: Path, number: int, most: int = 1000) -> list[tuple[int, dict[str, Any]]]:
    """Return up to ``most`` events of a log after event ``number``, each with its number."""
    try:
        with path.open("rb") as file:
            found = []
            for count, line in enumerate(file, 1):
                if count <= number or not line.endswith(b"\n"):
                    continue
                told = _parsed(line)
                told.pop("render_bytes", None)
                if told:
                    found.append((count, {**told, "id": count}))
                if len(found) == most:
                    break
            return found
    except OSError:
        return []


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
