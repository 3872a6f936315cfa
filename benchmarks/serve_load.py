"""Measure how much many clients of `avatarctl serve` slow down a render: phases with and without them take turns in one run.

    python benchmarks/serve_load.py --json load.json

The worker computes on one core; the server and all clients share the other one: 200 clients that ask for the status once a
second each, and 20 event streams. What is compared is the median time of a window step of the embedded avatar.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import psutil

from avatarctl.paths import embedded_avatar

READERS, STREAMS = 200, 20
SAMPLES = embedded_avatar() / "samples"


async def reader(host: str, port: int, path: str, first_s: float, counts: list[int]) -> None:
    """Ask for one path once a second over one connection."""
    await asyncio.sleep(first_s)
    source, sink = await asyncio.open_connection(host, port)
    while True:
        began = time.monotonic()
        sink.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        head = await source.readuntil(b"\r\n\r\n")
        size = next(
            int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
        )
        await source.readexactly(size)
        counts[0] += 1
        await asyncio.sleep(max(1 - (time.monotonic() - began), 0))


async def listener(host: str, port: int, path: str, counts: list[int]) -> None:
    """Listen to events."""
    source, sink = await asyncio.open_connection(host, port)
    sink.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    while await source.read(65536):
        counts[1] += 1


def load(address: str, name: str, core: int, seconds: float, found: Any) -> None:
    """Be all clients for a while; put how many answers and events came."""
    os.sched_setaffinity(0, {core})
    place = urlsplit(address)
    assert place.hostname is not None and place.port is not None
    host, port = place.hostname, place.port
    counts = [0, 0]

    async def run() -> None:
        path = f"/v1/videos/{name}"
        work = [asyncio.create_task(reader(host, port, path, n / READERS, counts)) for n in range(READERS)]
        work += [asyncio.create_task(listener(host, port, f"{path}/events", counts)) for _ in range(STREAMS)]
        await asyncio.wait(work, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        for task in work:
            task.cancel()

    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(run())
    found.put(counts)


def computed(pid: int) -> float:
    """Return the seconds of a processor that a process has had: what other programs take of it doesn't count."""
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def steps_during(progress: Path, seconds: float) -> tuple[list[float], float]:
    """Return the seconds of window steps over a while, by what the worker notes, and its processor's seconds of one step."""
    found: list[float] = []
    first: tuple[int, float] | None = None
    cpu_s = 0.0
    end, last = time.monotonic() + seconds, None
    while time.monotonic() < end:
        try:
            now = json.loads(progress.read_text())
        except (OSError, ValueError):
            now = {}
        if now.get("total") and (last is None or now["done"] > last["done"]):
            if last is not None:
                found.append((now["at"] - last["at"]) / (now["done"] - last["done"]))
            last = now
            had = now["done"], computed(now["pid"])
            first = first or had
            if had[0] > first[0]:
                cpu_s = (had[1] - first[1]) / (had[0] - first[0])
        time.sleep(0.05)
    return found, cpu_s


def measure(phase_s: float, rounds: int, cores: Sequence[int]) -> dict[str, Any]:
    """Run a server and a long render in it; return the medians without and with clients."""
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "AVATARCTL_HOME": home, "OMP_NUM_THREADS": "1"}
        folder = Path(home) / "jobs"
        words = ["serve", "--folder", str(folder), "--port", "0", "--preset", "puppet"]
        server = subprocess.Popen(
            [sys.executable, "-m", "avatarctl", *words], stdout=subprocess.PIPE, text=True, env=environment
        )
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            os.sched_setaffinity(server.pid, {cores[1]})
            with (SAMPLES / "voice.wav").open("rb") as voice:
                fields = {"steps": "1000", "model": "puppet"}
                name = httpx2.post(f"{address}/v1/videos", data=fields, files={"audio": voice}).json()["id"]
            progress = folder / name / "progress.json"
            while not (progress.is_file() and json.loads(progress.read_text()).get("total")):
                time.sleep(0.2)
            worker = json.loads(progress.read_text())["pid"]
            for task in Path(f"/proc/{worker}/task").iterdir():
                os.sched_setaffinity(int(task.name), {cores[0]})
            quiet: list[float] = []
            busy: list[float] = []
            cpu_quiet: list[float] = []
            cpu_busy: list[float] = []
            answers = events = 0
            context = get_context("spawn")
            for _ in range(rounds):
                walls, cpu_s = steps_during(progress, phase_s)
                quiet += walls
                cpu_quiet.append(cpu_s)
                found = context.Queue()
                clients = context.Process(target=load, args=(address, name, cores[1], phase_s + 3, found))
                clients.start()
                time.sleep(3)  # imports, and the first connections
                walls, cpu_s = steps_during(progress, phase_s)
                busy += walls
                cpu_busy.append(cpu_s)
                counts = found.get(timeout=60)
                clients.join()
                answers, events = answers + counts[0], events + counts[1]
        finally:
            server.terminate()
            server.wait(timeout=60)
    slower = statistics.median(busy) / statistics.median(quiet) - 1
    return {
        "window_step_s": {"alone": statistics.median(quiet), "with_clients": statistics.median(busy)},
        "slower": slower,
        "processor_s": {"alone": statistics.median(cpu_quiet), "with_clients": statistics.median(cpu_busy)},
        "processor_slower": statistics.median(cpu_busy) / statistics.median(cpu_quiet) - 1,
        "steps_timed": [len(quiet), len(busy)],
        "answers_per_s": answers / (rounds * (phase_s + 3)),
        "event_messages": events,
        "readers": READERS,
        "streams": STREAMS,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phase", type=float, default=15.0, help="seconds of each phase")
    parser.add_argument("--rounds", type=int, default=4, help="phases of each kind")
    parser.add_argument("--json", type=Path, help="file for the figures")
    asked = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        sys.exit("needs two cores")
    found = measure(asked.phase, asked.rounds, cores)
    text = json.dumps(found, indent=1)
    print(text)
    if asked.json:
        asked.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
