"""Test helper: a server over a folder of jobs, as a process: started, asked, killed, and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx2
import psutil

from avatarctl.paths import embedded_avatar

ROOT = Path(__file__).parents[2]
SAMPLES = embedded_avatar() / "samples"
PICTURE, VOICE = SAMPLES / "picture.png", SAMPLES / "voice.wav"
QUICK = {"model": "puppet", "seconds": "0.4", "steps": "1", "size": "64x64"}


def quick(**more: str) -> dict[str, str]:
    """Return the fields of a video that is made in a moment."""
    return {**QUICK, **more}


class Running:
    """A server and a client of it."""

    def __init__(self, home: Path, folder: Path, *words: str, presets: Sequence[str] = ("puppet",)) -> None:
        self.home, self.folder, self.words, self.presets = home, folder, words, presets
        self.log = folder.with_name(f"{folder.name}.log")
        self.process: subprocess.Popen[str] | None = None
        self.address = ""
        self.client = httpx2.Client()

    @property
    def environment(self) -> dict[str, str]:
        home = {"AVATARCTL_HOME": str(self.home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return {**os.environ, **home, "AVATARCTL_DEBUG": "1"}

    def argv(self) -> list[str]:
        names = [word for name in self.presets for word in ("--preset", name)]
        return [
            sys.executable,
            "-m",
            "avatarctl",
            "serve",
            "--folder",
            str(self.folder),
            "--port",
            "0",
            *names,
            *self.words,
        ]

    def start(self) -> Running:
        """Start the server and wait until it can be reached."""
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                self.argv(), stdout=subprocess.PIPE, stderr=log, text=True, env=self.environment, cwd=self.folder.parent
            )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        assert self.address.startswith("http://"), self.log.read_text()
        self.client = httpx2.Client(base_url=self.address, timeout=120)
        return self

    def stop(self) -> int:
        """Stop it as Ctrl-C does; return its exit code."""
        self.client.close()
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        code = self.process.wait(timeout=90)
        self.process = None
        return code

    def kill(self, workers_too: bool = False) -> None:
        """Kill it; its workers go on or, if asked, are killed too."""
        assert self.process is not None
        hired = self.workers() if workers_too else []
        self.process.kill()
        self.process.wait()
        for one in hired:
            kill(one)

    def workers(self) -> list[psutil.Process]:
        """Return the workers of this server."""
        assert self.process is not None
        try:
            below = psutil.Process(self.process.pid).children()
        except psutil.NoSuchProcess:
            return []
        return [one for one in below if "avatarctl.batch.worker" in " ".join(words_of(one))]

    # -- Asking ------------------------------------------------------------------------------------------------------

    def create(self, picture: Path = PICTURE, voice: Path = VOICE, **fields: str) -> dict[str, Any]:
        """Queue a video."""
        with picture.open("rb") as image, voice.open("rb") as audio:
            answer = self.client.post("/v1/videos", data=fields, files={"image": image, "audio": audio})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def get(self, name: str) -> dict[str, Any]:
        """Return a video."""
        answer = self.client.get(f"/v1/videos/{name}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, **content: Any) -> dict[str, Any]:
        """Post JSON; return the answer."""
        answer = self.client.post(path, json=content or None)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def until(self, name: str, status: str, seconds: float = 240) -> dict[str, Any]:
        """Wait until a video has a status (or its detail such a state)."""

        def there() -> dict[str, Any] | None:
            now = self.get(name)
            if now["status"] == "failed" and status not in ("failed", "cancelled"):
                raise AssertionError(now["error"])
            return now if status in (now["status"], now["detail"]["state"]) else None

        found: dict[str, Any] = wait_for(there, seconds)
        return found

    def content(self, name: str) -> bytes:
        """Return a finished video."""
        answer = self.client.get(f"/v1/videos/{name}/content")
        assert answer.status_code == 200, answer.text
        return answer.content

    def all(self) -> dict[str, str]:
        """Return the status of every video."""
        return {each["id"]: each["status"] for each in self.client.get("/v1/videos?limit=1000").json()["data"]}


def error_of(answer: httpx2.Response, code: int) -> dict[str, Any]:
    """Return the error of an answer, which has this code and the one shape that errors have."""
    assert answer.status_code == code, answer.text
    content = answer.json()
    assert set(content) == {"error"} and set(content["error"]) == {"type", "message", "hint", "code"}
    assert content["error"]["code"] == code
    return content["error"]


def events(text: str) -> list[tuple[str, str, Any]]:
    """Return the events of a stream: id, kind, content."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if "data" in fields:
            found.append((fields.get("id", ""), fields.get("event", ""), json.loads(fields["data"])))
    return found


def wait_for(what: Callable[[], Any], seconds: float = 180) -> Any:
    """Wait until something is true; return it."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)
    return found


def words_of(process: psutil.Process) -> list[str]:
    """Return the command line of a process that may be gone."""
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []


def kill(process: psutil.Process) -> None:
    """Send SIGKILL, if the process is still there."""
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return
