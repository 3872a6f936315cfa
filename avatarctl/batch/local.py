"""Render items with worker processes of this machine: one per GPU, or several on the CPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from avatarctl import threads
from avatarctl.batch.attempts import TICK_S, Attempt, Rules, next_attempt, say_stopping
from avatarctl.batch.items import Item
from avatarctl.batch.plan import Planned
from avatarctl.batch.tally import Tally
from avatarctl.batch.work import Outcome
from avatarctl.batch.worker import to_line
from avatarctl.errors import DeviceError
from avatarctl.interrupts import stopping

DEATHS = 3  # so many in a row, and a place for workers is given up
More = Callable[[], "Sequence[Item] | None"]


@dataclass
class Place:
    """Where one worker at a time runs: a GPU, or a share of the CPU."""

    number: int
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[str] | None = None
    current: Attempt | None = None
    deaths: int = 0


# -- The driver -----------------------------------------------------------------------------------------------------


def make_locally(
    planned: Sequence[Planned], places: Sequence[Place], logs: Path, rules: Rules, tally: Tally, more: More
) -> int:
    """Make all items, the first ones first; return the signal that stopped the work, or 0.

    ``more`` gives items that came up meanwhile, and None when none will.
    """
    answers: SimpleQueue[tuple[Place, dict[str, Any] | None]] = SimpleQueue()
    waiting = deque(Attempt(each.item) for each in planned)
    with stopping(say_stopping) as stop:
        try:
            while True:
                closing = bool(stop.signal or (rules.fail_fast and tally.failed()))
                fresh = None if closing else more()
                waiting.extend(Attempt(item) for item in fresh or ())
                if closing:
                    for place in places:
                        dismiss(place)
                else:
                    _hand_out(waiting, places, logs, rules, tally, answers)
                if not any(place.current for place in places) and (closing or (fresh is None and not waiting)):
                    return stop.signal
                try:
                    place, answer = answers.get(timeout=TICK_S)
                except Empty:
                    continue
                if (retry := _hear(place, answer, logs, rules, tally, closing)) is not None:
                    waiting.appendleft(retry)
        finally:
            for place in places:
                dismiss(place)
            for place in places:
                if place.process is not None:
                    if sys.exc_info()[0] is not None:
                        place.process.kill()
                    place.process.wait()


def _hand_out(
    waiting: deque[Attempt], places: Sequence[Place], logs: Path, rules: Rules, tally: Tally, answers: SimpleQueue[Any]
) -> None:
    """Return every free worker an item: first those that may go there, then whatever waits."""
    alive = [place for place in places if place.deaths < DEATHS]
    if not alive:
        while waiting:
            dead = Outcome("failed", message=f"no worker is left: see {logs}", exit_code=DeviceError.exit_code)
            tally.ended(waiting.popleft().item, dead)
    for picky in (True, False):
        for place in alive:
            fits = [one for one in waiting if not (picky and one.not_here == place.number)]
            if place.current is None and fits:
                waiting.remove(fits[0])
                place.current = fits[0]
                tally.attempt(fits[0].item)
                if place.process is None:
                    place.process = hire(place, logs, answers)
                assert place.process.stdin is not None
                try:
                    place.process.stdin.write(to_line(fits[0].item, rules.redo) + "\n")
                    place.process.stdin.flush()
                except BrokenPipeError:
                    continue  # it died: its listener says so


def _hear(
    place: Place, answer: dict[str, Any] | None, logs: Path, rules: Rules, tally: Tally, closing: bool
) -> Attempt | None:
    """Take in what a worker says, or its death (None); return the next attempt at its item, if there is to be one."""
    attempt = place.current
    if answer is not None and "outcome" not in answer:
        if attempt is not None:
            tally.report(attempt.item, answer["done"], answer["total"], answer.get("stage", ""))
        return None
    if answer is None:
        assert place.process is not None
        code, place.process = place.process.wait(), None
        if attempt is None:
            return None  # it was dismissed
        outcome = Outcome("failed", message=f"its worker {_ending(code, log_of(logs, place))}", exit_code=1)
        place.deaths += 0 if closing else 1
    else:
        outcome = Outcome(**answer["outcome"])
        place.deaths = 0
    place.current = None
    assert attempt is not None
    if closing and (answer is None or outcome.state == "stopped"):
        tally.ended(attempt.item, Outcome("stopped", message="continues when this is run again"))
        return None
    if outcome.state == "stopped":  # somebody stopped this worker alone
        outcome = replace(outcome, state="failed", message="its worker was stopped", exit_code=1)
    if outcome.state == "failed" and not closing and (retry := next_attempt(attempt, outcome, rules, place.number)):
        return retry
    tally.ended(attempt.item, outcome)
    return None


def _ending(code: int, log: Path) -> str:
    said = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    if code < 0:
        return f"was killed by {signal.Signals(-code).name} (see {log})"
    return f"ended with {code}: {said[-1] if said else 'it said nothing'} (see {log})"


# -- Workers --------------------------------------------------------------------------------------------------------


def hire(place: Place, logs: Path, answers: SimpleQueue[Any], words: Sequence[str] = ()) -> subprocess.Popen[str]:
    """Start a worker; a thread passes on what it says, and None when it ends. ``words``: its command line."""
    root = str(Path(__file__).parents[3])
    search = os.pathsep.join(part for part in (os.environ.get("PYTHONPATH"), root) if part)
    with log_of(logs, place).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "avatarctl.batch.worker", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": search, **place.environment},
            start_new_session=True,  # Ctrl-C in a terminal reaches the driver alone, who stops the others in order
        )
    threading.Thread(target=_pass_on, args=(place, process, answers), daemon=True).start()
    return process


def _pass_on(place: Place, process: subprocess.Popen[str], answers: SimpleQueue[Any]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.endswith("\n"):  # else a kill tore it
            answers.put((place, json.loads(line)))
    answers.put((place, None))


def dismiss(place: Place) -> None:
    """Close the pipe to a worker: it saves what it has and ends."""
    if place.process is not None and place.process.stdin is not None and not place.process.stdin.closed:
        try:
            place.process.stdin.close()
        except BrokenPipeError:
            return  # it has ended, with something unread


def log_of(logs: Path, place: Place) -> Path:
    """Return the file that a place's workers write to."""
    return logs / f"worker-{place.number}.log"


# -- How many, and where ----------------------------------------------------------------------------------------------


def places_for(planned: Sequence[Planned], jobs: int | None, watched: str | None = None) -> list[Place]:
    """Return the places of workers. ``jobs`` None: one per GPU; on the CPU as many as cores and memory hold.

    ``watched``: the device of items that are yet to come; how many and how large, nobody knows.
    """
    devices = {each.item.job.placement.device for each in planned} | ({watched} if watched else set())
    gpus = gpus_here() if devices - {"cpu"} else []
    cores = threads.usable_cores()
    if jobs is None and watched:
        jobs = len(gpus) or 1
    elif jobs is None:
        jobs = min(len(gpus) or cores_and_memory(planned, cores), max(len(planned), 1))
    share = {} if threads.by_user() else {"OMP_NUM_THREADS": str(max(cores // jobs, 1))}
    return [
        Place(number, {**share, **({"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {})})
        for number in range(jobs)
    ]


def gpus_here() -> list[str]:
    """Return the numbers or names of the GPUs that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = [name.strip() for name in visible.split(",")]
        return [] if "-1" in names or names == [""] else names
    from avatarctl.checks.graphics import driver

    found = driver()
    return [str(gpu["index"]) for gpu in found.gpus] if found else []


def cores_and_memory(planned: Sequence[Planned], cores: int) -> int:
    """Return how many workers the CPU's cores and the free main memory hold."""
    from avatarctl.checks.machine import available_bytes

    free = available_bytes()
    largest = max((each.takes.memory_bytes for each in planned), default=1)
    return cores if free is None else max(min(cores, free // max(largest, 1)), 1)
