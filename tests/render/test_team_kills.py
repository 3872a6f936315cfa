"""Tests with renders in several processes of which some are killed at random instants: any number resumes them, to the byte."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from served import Attempt, Server, free_port
from torch.distributed import TCPStore
from workshop import Case, seeded, straight

from avatarctl.durable import read_json

NewCase = Callable[..., Case]
STEPS = ("--steps", "6")
SIGKILLED, LOST = -signal.SIGKILL, 8
TOLD_WITHIN_S = 20.0


@pytest.fixture(scope="module")
def expected(studio: Path, server: Server, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The video, rendered by one process without interruption."""
    return straight(Case(studio, server, tmp_path_factory.mktemp("straight") / "case", "long.wav"), *STEPS)


# 5 each, of four processes: 30 kills in six parts, with seeds of their own.
PARTS = [pytest.param(4, 5, part, marks=pytest.mark.long, id=f"part{part}") for part in range(1, 7)]


@pytest.mark.parametrize(
    ("processes", "most", "part"), [pytest.param(2, 2, 0, id="some", marks=pytest.mark.long), *PARTS]
)
def test_killed_processes_cost_no_saved_work_and_no_bit(
    new_case: NewCase, expected: bytes, processes: int, most: int, part: int
) -> None:
    chance, kills, renders = seeded(f"team kills {part}"), 0, 0
    began = time.monotonic()
    timed = new_case("timed", audio="long.wav")
    assert {attempt.status for attempt in timed.together(processes, *STEPS)} == {0}
    whole_s = time.monotonic() - began
    while kills < most:
        case = new_case(f"render{renders}", audio="long.wav")
        while not case.output.exists():
            size = chance.choice([processes, processes, max(processes // 2, 1)])
            saved = case.checkpoint()
            ended = attempt_of(case, size, chance.randrange(size), chance.uniform(0, whole_s))
            kills += any(attempt.status == SIGKILLED for attempt in ended)
            if steps := ended[0].steps():
                assert steps[0] > saved, "saved window steps were computed again"
        assert case.bytes() == expected
        renders += 1
    sys.stdout.write(f"{kills} kills in {renders} renders\n")


def attempt_of(case: Case, size: int, whom: int, after_s: float) -> list[Attempt]:
    """Render with so many processes of which one is killed after some time, if it still runs; see how the others end."""
    killed_at, port = 0.0, free_port()

    def kill(pids: list[int]) -> None:
        nonlocal killed_at
        # Once they have met: where there is no launcher, others may be started much later, and are waited for.
        await_all(case, pids, port)
        time.sleep(after_s)
        killed_at = time.monotonic()
        with suppress(ProcessLookupError):
            os.kill(pids[whom], signal.SIGKILL)

    more = (*STEPS, "--checkpoint-every", "0.1")
    if size == 1:
        return [case.generate(*more, meanwhile=lambda pid: kill([pid]))]
    attempts = case.together(size, *more, meanwhile=kill, MASTER_PORT=str(port))
    others = [attempt for rank, attempt in enumerate(attempts) if rank != whom]
    found = {attempt.status for attempt in others}
    if attempts[whom].status == SIGKILLED:
        # Killed on its way out, the others may have finished; else they stop, and one of them says how to resume.
        assert found <= {0, LOST}, [attempt.told[-2000:] for attempt in attempts]
        assert time.monotonic() - killed_at < TOLD_WITHIN_S
        if LOST in found:
            assert f"avatarctl resume {case.render}" in "".join(attempt.told for attempt in others)
    return attempts


def await_all(case: Case, pids: list[int], port: int) -> None:
    """Wait until process 0 holds the folder and every other process has given a sign of life at its store."""
    until = time.monotonic() + 60
    while (read_json(case.render / "holder.json") or {}).get("pid") != pids[0]:
        if case.output.exists() or time.monotonic() > until:
            return
        time.sleep(0.005)
    if len(pids) == 1:
        return
    with suppress(RuntimeError):  # it was through before we looked
        store = TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=1))
        # Process 0 adds nothing to these counts when it looks at them, and so do we.
        signs = [f"0/avatarctl/1/alive/{rank}" for rank in range(1, len(pids))]
        while not all(store.add(sign, 0) for sign in signs) and time.monotonic() < until:
            time.sleep(0.005)
