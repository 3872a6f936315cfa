"""Test helper: small clips in it: videos with sound and masks, released clip folders; and runs command lines (from a folder)."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import subprocess
import sys
import traceback
import wave
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
from PIL import Image
from server import by_filelock

from avatarctl.data.compact import read_sample
from avatarctl.data.shards import Index

# One process imports everything; each command runs in a fork of it, which can be killed like any other process.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["footage", "avatarctl.cli", "avatarctl.data.encode", "avatarctl.data.check", "avatarctl.data.prepare.run"]
)
FRAMES = 9  # of a window of three latent frames


def ffmpeg(*arguments: str) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *arguments]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def video(
    path: Path, frames: int = FRAMES, fps: str = "25", size: str = "96x64", sound: bool = True, seed: int = 0
) -> Path:
    """Write a moving test picture with noise to hear."""
    path.parent.mkdir(parents=True, exist_ok=True)
    number, _, below = fps.partition("/")
    seconds = frames * int(below or 1) / int(number)
    pictures = ["-f", "lavfi", "-i", f"testsrc=size={size}:rate={fps}:duration={2 * seconds}"]
    noise = ["-f", "lavfi", "-i", f"anoisesrc=seed={seed + 1}:amplitude=0.2:duration={seconds}", "-c:a", "pcm_s16le"]
    coded = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-preset", "ultrafast", "-frames:v", str(frames)]
    ffmpeg(*pictures, *(noise if sound else []), *coded, *(["-f", "matroska"] if sound else []), f"file:{path}")
    return path


def pictures(folder: Path, frames: int = FRAMES, size: tuple[int, int] = (96, 64), colour: int | None = None) -> Path:
    """Write numbered pictures whose grey is their number, or all of one grey."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(frames):
        Image.new("L", size, 10 * number if colour is None else colour).save(folder / f"frame_{number}.png")
    return folder


def recording(path: Path, seconds: float, seed: int = 0) -> Path:
    """Write noise at 16 kHz."""
    samples = np.random.default_rng(seed).normal(0, 3000, round(16000 * seconds)).clip(-32000, 32000)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(samples.astype("<i2").tobytes())
    return path


def clip_folder(folder: Path, frames: int = FRAMES, masks: bool = True, seed: int = 0) -> Path:
    """Write a clip as released: 25 pictures a second, masks white on their left half (face) and everywhere (lips)."""
    pictures(folder / "images", frames)
    recording(folder / "audio.wav", frames / 25, seed)
    video(folder / "sub_clip.mp4", frames, seed=seed)
    if masks:
        pictures(folder / "lip_masks", frames, colour=255)
        left = np.zeros((64, 96), np.uint8)
        left[:, :48] = 255
        for path in pictures(folder / "face_masks", frames).iterdir():
            Image.fromarray(left).save(path)
    return folder


@dataclass(frozen=True)
class Ended:
    """How a command line ended, and what it wrote."""

    status: int
    out: str
    log: str

    @property
    def data(self) -> dict[str, Any]:
        """What ``--json`` gave."""
        found: dict[str, Any] = json.loads(self.out)
        return found["data"]


class Command:
    """A command line in a process of its own."""

    def __init__(self, folder: Path, *argv: object, **environment: str) -> None:
        self.out, self.log = (folder / f".{id(self)}.{name}" for name in ("out", "log"))
        self.process = PROCESSES.Process(
            target=_main, args=([str(word) for word in argv], str(self.out), str(self.log), environment)
        )
        self.process.start()

    def end(self, timeout_s: float = 120) -> Ended:
        """Wait for the end of the process."""
        self.process.join(timeout_s)
        assert self.process.exitcode is not None, "it goes on for ever"
        return Ended(self.process.exitcode, self.out.read_text(), self.log.read_text())


def _main(argv: list[str], out: str, log: str, environment: dict[str, str]) -> None:
    import torch

    from avatarctl.cli import main

    torch.set_num_threads(1)
    os.environ.update(environment)
    for place, path in ((1, out), (2, log)):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), place)
    if "FULL_AT" in environment:
        fill_disk(environment["FULL_INSIDE"], int(environment["FULL_AT"]))
    sys.argv = ["avatarctl", *argv]
    try:
        main()
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def fill_disk(inside: str, at: int) -> None:
    """Let the n-th write in a folder find the disk full: a file that is made or opened to be written, or flushed."""
    seen = 0
    flush = os.fsync

    def met() -> None:
        nonlocal seen
        if by_filelock():  # lock files hold nothing, and filelock tries again
            return
        seen += 1
        if seen == at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def audit(event: str, details: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(details[0], str | os.PathLike):
            path, writes = os.fspath(details[0]), details[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes and path.startswith(inside):
                met()

    def full_flush(handle: int) -> None:
        met()
        flush(handle)

    sys.addaudithook(audit)
    os.fsync = full_flush


def contents(cache: Path) -> dict[str, dict[str, Any]]:
    """Return every sample by its key: meta and tensors, each read with its checksum."""
    index = Index(cache)
    keys = [entry.key for entry in index.samples()]
    assert len(set(keys)) == len(keys), "a sample is there twice"
    return {entry.key: {**entry.meta, **read_sample(cache, entry)} for entry in index.samples()}


def by_source(cache: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Return every sample by clip and first picture."""
    return {(each["source"], each["start_frame"]): each for each in contents(cache).values()}
