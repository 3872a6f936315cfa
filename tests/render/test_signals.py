"""Tests with renders that are asked to stop, or met by a second process: exit codes, messages and what is kept."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from variants import some
from workshop import Case, Server, signal_at, straight

from avatarctl.errors import Interrupted
from avatarctl.render import render
from avatarctl.sampling.team import Team
from avatarctl.settings.jobs import render_job

NewCase = Callable[..., Case]
STEPS = ("--steps", "6")


@pytest.fixture(scope="module")
def expected(studio: Path, server: Server, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The video, rendered without interruption."""
    return straight(Case(studio, server, tmp_path_factory.mktemp("straight") / "case", "long.wav"), *STEPS)


@pytest.mark.parametrize("number", some([signal.SIGINT, signal.SIGTERM], signal.SIGINT))
def test_a_signal_stops_after_the_window_step_and_says_how_to_go_on(
    new_case: NewCase, expected: bytes, number: signal.Signals
) -> None:
    case = new_case(audio="long.wav")
    process = case.start(*case.argv(*STEPS, "--checkpoint-every", "0.2"))
    signal_at(case, 1, number)(process.pid)
    log, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    done = case.checkpoint()
    assert f"stopped; {done} of 60 passes are saved" in log
    assert f"avatarctl resume {case.render}" in log
    assert [event["event"] for event in case.events()[-2:]] == ["checkpoint", "interrupted"]
    assert case.events()[-1]["signal"] == number
    assert not case.output.exists()
    resumed = case.command("resume", str(case.render), "--progress", "json")
    assert resumed.status == 0, resumed.log
    assert resumed.steps()[0] == done + 1
    assert case.bytes() == expected


def test_a_signal_while_processes_agree_is_heard_in_the_next_round(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AVATARCTL_HOME", str(tmp_path / "home"))
    case.audio, asked = "long.wav", []

    def agree(self: Team, number: int) -> int:
        asked.append(number)
        if len(asked) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return number

    monkeypatch.setattr(Team, "agree", agree)
    settings = {"weights": case.studio / "weights", "checkpoint_every_s": 60.0}
    files = (case.studio / "face.png", case.studio / "long.wav", case.output, str(case.studio / "tiny.yaml"))
    with pytest.raises(Interrupted, match="stopped; 4 of 20 passes are saved"):
        render(render_job(*files, settings))
    assert asked == [0, 0, 0, signal.SIGTERM] and case.checkpoint() == 4


def test_a_signal_while_pictures_are_decoded_stops_too(new_case: NewCase, expected: bytes) -> None:
    case = new_case(audio="long.wav")
    stopped = case.generate(*STEPS, meanwhile=signal_at(case, 60, signal.SIGTERM))
    assert stopped.status in (143, 0), stopped.log
    if stopped.status == 143:
        assert "60 of 60 passes are saved" in stopped.log
        assert case.generate(*STEPS).status == 0
    assert case.bytes() == expected


def test_the_second_signal_stops_at_once(case: Case) -> None:
    # Large pictures, so that a window step takes long enough to be stopped within.
    slow = ("--size", "384x384")

    def twice(pid: int) -> None:
        signal_at(case, 1, signal.SIGINT)(pid)
        time.sleep(0.05)
        os.kill(pid, signal.SIGINT)

    stopped = case.generate(*slow, meanwhile=twice)
    assert stopped.status == 130, stopped.log
    assert "Traceback" not in stopped.log
    # Nothing more was done: no checkpoint of the step, not even an event.
    assert [event["event"] for event in case.events()].count("checkpoint") == 1
    assert case.events()[-1]["event"] == "checkpoint"
    assert case.command("renders", "verify", str(case.render)).status == 0
    done = case.checkpoint()
    resumed = case.command("resume", str(case.render), "--progress", "json")
    assert resumed.status == 0, resumed.log
    assert resumed.steps()[0] == done + 1


def test_a_signal_before_the_first_window_step_stops_too(case: Case, server: Server) -> None:
    def early(pid: int) -> None:
        deadline = time.monotonic() + 30
        while not case.events() and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(pid, signal.SIGINT)

    stopped = case.generate(meanwhile=early)
    assert stopped.status == 130, stopped.log
    assert case.checkpoint() <= 1
    assert case.generate().status == 0


def test_a_second_process_is_told_who_holds_the_render(case: Case) -> None:
    def meet(pid: int) -> None:
        signal_at(case, 1, signal.SIGSTOP)(pid)
        try:
            for argv in (case.argv(), case.argv("--force"), ["resume", str(case.render)]):
                second = case.start(*argv)
                log, _ = second.communicate(timeout=60)
                assert second.returncode == 6, log
                assert f"process {pid} on {socket.gethostname()} since 20" in log
            for argv, said in ((["list"], "running"), (["remove", str(case.render), "--force"], "a process is")):
                other = case.start("renders", *argv)
                log, _ = other.communicate(timeout=60)
                assert said in log and other.returncode == (6 if argv[0] == "remove" else 0), log
        finally:
            os.kill(pid, signal.SIGCONT)

    first = case.generate(meanwhile=meet)
    assert first.status == 0, first.log
    assert first.steps() == [1, 2, 3, 4, 5, 6]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc to see what a process has loaded")
@pytest.mark.parametrize("library", ["pydantic_core", "libtorch_cpu"])
@pytest.mark.parametrize("work", [(), ("--work-dir", "work")])
def test_a_signal_while_libraries_are_imported_ends_at_once_and_leaves_nothing(
    case: Case, library: str, work: tuple[str, ...]
) -> None:
    if work:
        (case.folder / "work").mkdir()
    before = sorted(case.folder.rglob("*"))
    process = case.start(*case.argv(*work))
    maps = Path(f"/proc/{process.pid}/maps")
    deadline = time.monotonic() + 100
    while library not in maps.read_text():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    log, _ = process.communicate(timeout=100)
    assert process.returncode == 130, log
    assert "Traceback" not in log and "Exception ignored" not in log and "interrupted" in log
    assert sorted(case.folder.rglob("*")) == before
    assert case.generate(*work).status == 0
