"""Tests with work beside sampling: its order, its bounds, its errors, and renders that decode and encode in threads."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from variants import some

from avatarctl import threads
from avatarctl.errors import DeviceError, Interrupted
from avatarctl.networks.placement import Placement
from avatarctl.networks.vae import DecodeStream
from avatarctl.render import render, segments
from avatarctl.render.beside import Abandoned, Beside
from avatarctl.render.encoding import Encoding
from avatarctl.render.folder import RenderFolder
from avatarctl.settings.placement import PlacementSettings
from avatarctl.settings.render import RenderJob, RenderSettings


@pytest.fixture
def beside() -> Iterator[Beside]:
    thread = Beside("test", 2)
    yield thread
    thread.end()


def test_work_is_done_in_order_with_the_threads_of_torch(beside: Beside) -> None:
    torch.set_num_threads(before := torch.get_num_threads())
    done: list[tuple[int, int, str]] = []
    for number in range(20):
        beside.hand(lambda n=number: done.append((n, torch.get_num_threads(), threading.current_thread().name)))
    assert beside.done(20)
    assert [number for number, _, _ in done] == list(range(20))
    assert {threads for _, threads, _ in done} == {before}
    assert threading.current_thread().name not in {name for _, _, name in done}


def test_who_hands_over_too_much_waits(beside: Beside) -> None:
    free, handed = threading.Event(), []

    def hand_over() -> None:
        for number in range(6):
            beside.hand(lambda: free.wait(20) and None)
            handed.append(number)

    other = threading.Thread(target=hand_over)
    other.start()
    time.sleep(0.2)
    assert len(handed) == 3, "one is done and two wait"
    assert not beside.done(0)
    free.set()
    other.join(20)
    assert len(handed) == 6 and beside.done(20)


def test_an_error_ends_the_work_and_is_raised_by_every_call(beside: Beside) -> None:
    def fail() -> None:
        raise DeviceError("the disk is full", "free some space")

    done: list[int] = []
    beside.hand(fail)
    with pytest.raises(DeviceError, match="the disk is full"):
        for number in range(100):
            beside.hand(lambda n=number: done.append(n))
            time.sleep(0.01)
    for _ in range(2):
        with pytest.raises(DeviceError, match="the disk is full"):
            beside.check()
        with pytest.raises(DeviceError, match="the disk is full"):
            beside.done(0)
    assert done == []


def test_the_end_waits_for_what_is_being_done_and_drops_the_rest() -> None:
    thread, begun, done = Beside("test", 5), threading.Event(), []

    def slow() -> None:
        begun.set()
        time.sleep(0.2)
        done.append("slow")

    thread.hand(slow)
    thread.hand(lambda: done.append("never"))
    assert begun.wait(20)
    thread.end()
    assert done == ["slow"]
    with pytest.raises(Abandoned):
        thread._do(lambda: None)


# -- Renders ----------------------------------------------------------------------------------------------------------


class Seen:
    """Which threads decoded, encoded and stepped in a render, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: dict[str, list[str]] = {"decode": [], "encode": []}
        self.at_push: Callable[[], None] = lambda: None
        push, add = DecodeStream._push, Encoding.add

        def seen_push(stream: DecodeStream, latents: list[torch.Tensor]) -> list[torch.Tensor]:
            self.names["decode"].append(threading.current_thread().name)
            self.at_push()
            return push(stream, latents)

        def seen_add(encoding: Encoding, pictures: NDArray[np.uint8]) -> None:
            self.names["encode"].append(threading.current_thread().name)
            add(encoding, pictures)

        monkeypatch.setattr(DecodeStream, "_push", seen_push)
        monkeypatch.setattr(Encoding, "add", seen_add)


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Seen:
    monkeypatch.setenv("AVATARCTL_HOME", str(tmp_path / "home"))
    return Seen(monkeypatch)


def job_of(studio: Path, output: Path) -> RenderJob:
    return RenderJob(
        image=studio / "face.png",
        audio=studio / "long.wav",
        output=output,
        weights=studio / "weights",
        render=RenderSettings(size=(64, 64), steps=2, window=3, overlap=2, segment_latent_frames=2),
        placement=PlacementSettings(device="cpu"),
    )


def cores(monkeypatch: pytest.MonkeyPatch, spare: int) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: torch.get_num_threads() + spare)


def test_a_spare_core_decodes_beside_sampling_with_the_same_bytes(
    studio: Path, tmp_path: Path, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {}
    for spare in (0, 1):
        cores(monkeypatch, spare)
        for names in seen.names.values():
            names.clear()
        job = job_of(studio, tmp_path / f"{spare}.mp4")
        render(job)
        made[spare] = job.output.read_bytes()
        assert all(name.startswith("encoder") for name in seen.names["encode"])
        here = threading.current_thread().name
        assert all(name == here if not spare else name.startswith("decoder") for name in seen.names["decode"])
        assert len(seen.names["decode"]) == len(seen.names["encode"]) == 12, "each latent frame once"
    assert made[0] == made[1]
    assert not [thread.name for thread in threading.enumerate() if "coder" in thread.name]


def test_a_gpu_decodes_beside_sampling_where_its_memory_holds_both() -> None:
    gpu = Placement(torch.device("cuda"), torch.bfloat16, "full", float8=False, attention=None, compile=False)
    assert segments.beside(gpu) and not segments.beside(replace(gpu, beside=False))


@pytest.mark.parametrize("spare", [0, 1])
def test_an_error_of_the_encoder_is_the_render_s(
    studio: Path, tmp_path: Path, seen: Seen, monkeypatch: pytest.MonkeyPatch, spare: int
) -> None:
    cores(monkeypatch, spare)
    job, adopt = job_of(studio, tmp_path / "talk.mp4"), RenderFolder.adopt

    def full(folder: RenderFolder, part: Path, name: str) -> None:
        if name.startswith("segments/000001"):
            with folder._guarded():
                raise OSError(errno.ENOSPC, "No space left on device", str(part))
        adopt(folder, part, name)

    with monkeypatch.context() as once, pytest.raises(DeviceError, match="the disk is full") as caught:
        once.setattr(RenderFolder, "adopt", full)
        render(job)
    assert f"avatarctl resume {job.folder}" in caught.value.hint
    assert not job.output.exists() and encoders() == []
    folder = RenderFolder(job.folder)
    folder.look()
    assert len(folder.listed("segments")) == 1
    render(job)
    straight = job_of(studio, tmp_path / "straight.mp4")
    render(straight)
    assert job.output.read_bytes() == straight.output.read_bytes()


@pytest.mark.parametrize("spare", [0, 1])
@pytest.mark.parametrize("number", some([signal.SIGINT, signal.SIGTERM], signal.SIGTERM))
def test_a_stop_in_the_middle_of_a_latent_frame_is_heard_there(
    studio: Path, tmp_path: Path, seen: Seen, monkeypatch: pytest.MonkeyPatch, spare: int, number: signal.Signals
) -> None:
    cores(monkeypatch, spare)
    straight, job = (job_of(studio, tmp_path / name) for name in ("straight.mp4", "talk.mp4"))
    render(straight)
    count = 0

    def stop() -> None:
        nonlocal count
        count += 1
        if count == 4:
            os.kill(os.getpid(), number)
            time.sleep(0.5)  # the main thread hears it

    seen.at_push = stop
    with pytest.raises(Interrupted) as caught:
        render(job)
    assert caught.value.exit_code == 128 + number
    assert count == 4, "no latent frame was decoded after it"
    assert encoders() == []
    seen.at_push = lambda: None
    render(job)
    assert job.output.read_bytes() == straight.output.read_bytes()


def encoders() -> list[str]:
    """Return the programs that this process started and that still run."""
    found = subprocess.run(["ps", "--ppid", str(os.getpid()), "-o", "args="], capture_output=True, text=True)
    return [line for line in found.stdout.splitlines() if "ffmpeg" in line]
