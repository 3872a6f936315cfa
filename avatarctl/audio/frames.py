"""Run ffmpeg on one sound track: decoded samples as they come, the time stamp of each frame, and what ffmpeg says."""

from __future__ import annotations

import queue
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from avatarctl.errors import AvatarError

_FRAME = re.compile(
    rb"n: *\d+ pts:(\S+) +pts_time:\S+ +fmt:\S+ channels:(\d+) chlayout:(.*?) rate:(\d+) nb_samples:(\d+) "
    rb"(?:checksum:\w+ plane_checksums: \[[ \w]*\]\s*($))?"
)
_LOG_BYTES = 200_000


@dataclass(frozen=True)
class Frame:
    """One decoded frame: its time stamp in samples (None without), its length, and its form as recorded."""

    stamp: int | None
    samples: int
    rate_hz: int
    channels: int
    layout: str


class Frames:
    """The frames that a running ffmpeg announces on its log, ahead of their samples on ``pipe``."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self.pipe: IO[bytes] = process.stdout
        self.process = process
        self._found: queue.SimpleQueue[list[Frame] | None] = queue.SimpleQueue()
        self._log = bytearray()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[list[Frame]]:
        """Yield the announced frames, some at a time, until ffmpeg ends."""
        while (batch := self._found.get()) is not None:
            yield batch

    def log(self) -> str:
        """Return what ffmpeg said beside the frames; waits for its end."""
        self._thread.join()
        return self._log.decode("utf-8", "replace")

    def said(self) -> str:
        """Return what ffmpeg has said so far."""
        return bytes(self._log).decode("utf-8", "replace")

    def _listen(self) -> None:
        assert self.process.stderr is not None
        stream, rest = self.process.stderr, b""
        while data := stream.read1(1 << 16):  # type: ignore[attr-defined]
            lines = (rest + data).split(b"\n")
            rest = lines.pop()
            batch = []
            for line in lines:
                match = _FRAME.search(line)
                if match is not None:
                    stamp, channels, layout, rate_hz, samples, end = match.groups()
                    known = None if stamp == b"NOPTS" else int(stamp)
                    batch.append(Frame(known, int(samples), int(rate_hz), int(channels), layout.decode()))
                    if end is not None:
                        continue
                # Threads of ffmpeg write into each other's lines: what isn't a frame alone is kept as well.
                if len(self._log) < _LOG_BYTES:
                    self._log += line + b"\n"
            if batch:
                self._found.put(batch)
        self._log += rest
        self._found.put(None)


@contextmanager
def decoding(program: str, arguments: list[str]) -> Iterator[Frames]:
    """Run ffmpeg with ``arguments`` (input, mapping, output to ``pipe:1``); it has ended when the context is left."""
    command = [program, "-v", "level+info", "-hide_banner", "-nostats", "-nostdin", *arguments]
    try:
        # A session of its own: Ctrl-C in the terminal is ours to handle, it must not look like a damaged file.
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    except OSError as error:
        raise no_ffmpeg(str(error)) from error
    with process:
        frames = Frames(process)
        try:
            yield frames
        finally:
            process.kill()
            frames.log()


def no_ffmpeg(got: str) -> AvatarError:
    """Return the error of a missing ffmpeg."""
    return AvatarError(
        f"ffmpeg: got {got}, expected the program that comes with imageio-ffmpeg",
        "pip install --force-reinstall imageio-ffmpeg, and unset IMAGEIO_FFMPEG_EXE unless it names an ffmpeg",
    )
