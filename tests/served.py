"""Test helper: run command lines in forked copies of one process that has imported everything, killed or not."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


class Server:
    """A process that has imported everything; runs one command line at a time in a forked copy of itself."""

    def __init__(self, home: Path) -> None:
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1", "AVATARCTL_HOME": str(home), "PYTHONPATH": str(ROOT)}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("server.py"))],
            stdin=pipe,
            stdout=pipe,
            env=self.environment,
            text=True,
        )
        self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the server is gone"
        return json.loads(line)

    def run(
        self,
        folder: Path,
        argv: list[str],
        fault: str = "none",
        at: int = 0,
        meanwhile: Callable[[int], None] | None = None,
        **environment: str,
    ) -> Attempt:
        """Run a command line in ``folder``; ``meanwhile`` is called with the process's number while it runs."""
        log = folder / "attempt.log"
        request = {"argv": argv, "folder": str(folder), "log": str(log), "fault": fault, "at": at}
        request["environment"] = environment
        ended = self._request(request, lambda pids: meanwhile(pids[0]) if meanwhile else None)
        return Attempt(ended["statuses"][0], log.read_text(), ended["writes"])

    def run_together(
        self,
        folder: Path,
        argv: list[str],
        processes: int,
        meanwhile: Callable[[list[int]], None] = lambda _: None,
        over_gloo: bool = False,
        **environment: str,
    ) -> list[Attempt]:
        """Run a command line in several processes as a launcher would; ``meanwhile`` is called with their numbers.

        ``over_gloo``: as devices that weights and optimizers can be sharded over.
        """
        logs = [folder / f"attempt.{rank}.log" for rank in range(processes)]
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(processes)}
        place |= environment
        members = [
            {"log": str(log), "environment": {**place, "RANK": str(rank), "LOCAL_RANK": str(rank)}}
            for rank, log in enumerate(logs)
        ]
        request = {"argv": argv, "folder": str(folder), "fault": "none", "at": 0, "members": members}
        request["over_gloo"] = over_gloo
        ended = self._request(request, meanwhile)
        return [Attempt(status, log.read_text()) for status, log in zip(ended["statuses"], logs, strict=True)]

    def _request(self, request: dict[str, Any], meanwhile: Callable[[list[int]], None]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        pids = self._answer()["pids"]
        try:
            meanwhile(pids)
        except BaseException:
            # A test that fails here must not fail those after it: nothing of this request may be left to read.
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._answer()
            raise
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


@dataclass(frozen=True)
class Attempt:
    """How a command line ended (minus the number of the signal that killed it), what it said, and its counted writes."""

    status: int
    log: str
    writes: int = 0

    @property
    def told(self) -> str:
        """What was said, with errors that came as JSON lines (``--progress json``) in the words of a terminal."""
        lines = []
        for line in self.log.splitlines():
            event = json.loads(line) if line.startswith('{"event": ') and line.endswith("}") else {}
            error = event.get("event") == "error"
            lines.append(f"error: {event['message']}\nhint: {event.get('hint', '')}" if error else line)
        return "\n".join(lines)

    def steps(self) -> list[int]:
        """Return the window steps that were done after each report of a render with ``--progress json``."""
        rows = [
            line for line in self.log.splitlines() if line.startswith('{"event": "progress"') and line.endswith("}")
        ]
        return [json.loads(row)["window_steps"] for row in rows]


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def kill_after(seconds: float) -> Callable[[int], None]:
    """Return what kills a process after some time, if it still runs."""

    def kill(pid: int) -> None:
        time.sleep(seconds)
        # A process that has ended is a child nobody waited for only until the server reads its status.
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    return kill
