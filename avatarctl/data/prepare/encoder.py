"""Encode pictures with ffmpeg as they come; the bytes depend on the pictures alone."""

from __future__ import annotations

import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from avatarctl.audio.source import ffmpeg
from avatarctl.data.prepare.scan import FPS
from avatarctl.errors import AvatarError, DeviceError

FULL = "free some space and run the same command again: what is finished is kept"


class Encoder:
    """ffmpeg that takes raw pictures and writes a file."""

    def __init__(self, target: Path, size: tuple[int, int], pixels: str, arguments: list[str]) -> None:
        source = ["-f", "rawvideo", "-pix_fmt", pixels, "-s", f"{size[0]}x{size[1]}", "-r", str(FPS), "-i", "pipe:0"]
        command = [ffmpeg(), "-v", "error", "-nostdin", *source, *arguments, "-y", f"file:{target}"]
        self._target = target
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed below)
        # A session of its own: Ctrl-C in the terminal is ours to handle.
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=self._log, start_new_session=True)

    def write(self, pixels: NDArray[np.uint8]) -> None:
        """Add a picture."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(np.ascontiguousarray(pixels).data)
        except BrokenPipeError:
            self.finish()
            raise

    def finish(self) -> None:
        """Wait for the end; raises what is wrong: a full disk, else ffmpeg's own words."""
        with suppress(BrokenPipeError):
            self._process.communicate()
        if self._process.returncode:
            self._log.seek(0)
            text = self._log.read().decode("utf-8", "replace").strip()
            if "No space left on device" in text:
                raise DeviceError(f"{self._target.parent}: the disk is full", FULL)
            raise AvatarError(f"{self._target}: ffmpeg ended with {self._process.returncode} ({text[:300]})")

    def close(self) -> None:
        """End it, if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()
        self._log.close()
