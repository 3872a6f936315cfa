"""Tests with checkpoints that a thread writes beside sampling: one at a time, waited for, and its errors are the render's."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from workshop import Case, signal_at, straight

from avatarctl.errors import DeviceError
from avatarctl.render import checkpoints, frontier
from avatarctl.render.checkpoints import Checkpoints
from avatarctl.render.folder import RenderFolder
from avatarctl.sampling.denoise import InFlight

NewCase = Callable[..., Case]


class Disk:
    """A disk that takes its time: what is saved, and when it may go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.saved: list[frontier.Frontier] = []
        self.begun, self.free = threading.Semaphore(0), threading.Event()
        self.error: Exception | None = None
        monkeypatch.setattr(checkpoints.frontier, "save", self._save)

    def _save(self, _: RenderFolder, state: frontier.Frontier) -> None:
        self.begun.release()
        assert self.free.wait(20)
        if self.error is not None:
            raise self.error
        self.saved.append(state)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture
def folder(tmp_path: Path) -> RenderFolder:
    return RenderFolder(tmp_path)


def windows(done: int) -> dict[int, InFlight]:
    return {4: InFlight(done, torch.zeros(1))}


def test_sampling_goes_on_while_one_is_written_and_none_is_due_until_then(folder: RenderFolder, disk: Disk) -> None:
    with Checkpoints(folder, 0.001) as saving:
        flying = windows(1)
        saving.save(flying, 4, 9)
        assert disk.begun.acquire(timeout=20)
        flying[4] = InFlight(2, torch.ones(1))  # the next step, meanwhile
        time.sleep(0.01)
        assert not saving.due() and disk.saved == []
        disk.free.set()
    (saved,) = disk.saved
    assert saved.windows[4].done == 1 and saved.first == 4, "what is saved is the state at that time"
    assert '"checkpoint", "window_steps": 9' in (folder.path / "events.jsonl").read_text()


def test_the_end_of_sampling_waits_for_it_also_when_it_is_an_error(folder: RenderFolder, disk: Disk) -> None:
    with pytest.raises(KeyboardInterrupt), Checkpoints(folder, 60) as saving:
        saving.save(windows(1), 0, 1)
        threading.Timer(0.2, disk.free.set).start()
        raise KeyboardInterrupt
    assert len(disk.saved) == 1


def test_an_error_of_the_thread_is_raised_at_the_next_step_or_at_the_end(folder: RenderFolder, disk: Disk) -> None:
    disk.error = DeviceError("the disk is full", "free some space")
    disk.free.set()
    with pytest.raises(DeviceError, match="the disk is full"), Checkpoints(folder, 60) as saving:
        saving.save(windows(1), 0, 1)
        for _ in range(2000):
            saving.due()
            time.sleep(0.01)
    with pytest.raises(DeviceError, match="the disk is full"), Checkpoints(folder, 60) as saving:
        saving.save(windows(1), 0, 1)
    with pytest.raises(ZeroDivisionError), Checkpoints(folder, 60) as saving:
        saving.save(windows(1), 0, 1)
        raise ZeroDivisionError


def test_every_zero_seconds_saves_each_step_before_the_next(folder: RenderFolder, disk: Disk) -> None:
    disk.free.set()
    with Checkpoints(folder, 0) as saving:
        for done in range(1, 5):
            assert saving.due()
            saving.save(windows(done), 0, done)
            assert [state.windows[4].done for state in disk.saved] == list(range(1, done + 1))


def test_a_stop_is_saved_after_the_one_that_is_being_written(folder: RenderFolder, disk: Disk) -> None:
    with Checkpoints(folder, 60) as saving:
        saving.save(windows(1), 0, 1)
        threading.Timer(0.2, disk.free.set).start()
        saving.save(windows(2), 0, 2, now=True)
        assert [state.windows[4].done for state in disk.saved] == [1, 2]


def test_writing_takes_no_more_than_a_twentieth_of_the_time(
    folder: RenderFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints.frontier, "save", lambda *_: time.sleep(0.1))
    begun = time.monotonic()
    with Checkpoints(folder, 0.01) as saving:
        saving.save(windows(1), 0, 1)
        while not saving.due():
            time.sleep(0.005)
        assert time.monotonic() - begun >= 2


def test_a_render_stopped_with_checkpoints_beside_sampling_is_the_same_to_the_byte(new_case: NewCase) -> None:
    many = ("--steps", "12")  # 120 passes: a second between the signal and the end
    expected = straight(new_case("straight", audio="long.wav"), *many)
    case = new_case(audio="long.wav")
    for number in (signal.SIGTERM, signal.SIGINT):
        heard = signal_at(case, case.checkpoint() + 3, number)
        stopped = case.generate(*many, "--checkpoint-every", "0.02", meanwhile=heard)
        assert stopped.status == 128 + number, stopped.log
        (*_, last) = [event for event in case.events() if event["event"] == "checkpoint"]
        saved = re.search(r"(\d+) of 120 passes are saved", stopped.told)
        assert saved is not None, stopped.told
        assert int(saved[1]) in (last["window_steps"], 120)  # 120: it was heard when every window was final
    resumed = case.command("resume", str(case.render))
    assert resumed.status == 0, resumed.log
    assert case.bytes() == expected


@pytest.mark.long
def test_a_disk_that_is_full_in_the_thread_ends_the_render_as_ever(new_case: NewCase) -> None:
    expected = straight(new_case("straight", audio="long.wav"))
    met = 0
    for number in range(30, 130, 19):
        case = new_case(f"write{number}", audio="long.wav")
        attempt = case.generate("--checkpoint-every", "0.02", fault="full", at=number)
        if attempt.writes < number:
            break
        met += 1
        assert attempt.status == 8, attempt.log
        assert "the disk is full" in attempt.log and f"avatarctl resume {case.render}`" in attempt.log
        assert "Traceback" not in attempt.log
        resumed = case.generate("--checkpoint-every", "0.02")
        assert resumed.status == 0, resumed.log
        assert case.bytes() == expected
    assert met > 2
