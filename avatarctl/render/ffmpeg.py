"""Start ffmpeg and turn its failure into an error that says what to do."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import IO

from avatarctl.audio.source import ffmpeg
from avatarctl.errors import AvatarError, DeviceError

# No version marks and no metadata of the inputs: the bytes depend on pictures, sound and settings alone.
QUIET = {**os.environ, "SVT_LOG": "1"}  # errors alone: the AV1 encoder has a log of its own
BITEXACT = ("-fflags", "+bitexact", "-flags:v", "+bitexact", "-flags:a", "+bitexact", "-map_metadata", "-1")


def start(arguments: list[str], level: str = "error", folder: Path | None = None) -> subprocess.Popen[bytes]:
    """Start ffmpeg with pipes; its input is a pipe when an argument is ``pipe:0``, else it has none."""
    command = [
        ffmpeg(),
        "-v",
        level,
        "-hide_banner",
        "-nostats",
        *(() if "pipe:0" in arguments else ("-nostdin",)),
        *arguments,
    ]
    pipe: int | IO[bytes] = subprocess.PIPE if "pipe:0" in arguments else subprocess.DEVNULL
    # A session of its own: Ctrl-C in the terminal is ours to handle.
    return subprocess.Popen(
        command,
        stdin=pipe,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        cwd=folder,
        env=QUIET,
    )


def check(status: int, log: bytes) -> None:
    """Raise the error of an ffmpeg that failed, with the last line of its log; a full disk has its own."""
    if status == 0:
        return
    text = log.decode(errors="replace").strip()
    if "No space left on device" in text:
        raise DeviceError(
            "video: the disk is full", "free some space and run `avatarctl resume`: what is finished is kept"
        )
    lines = text.splitlines()
    raise AvatarError(
        f"video: ffmpeg ended with {status} ({lines[-1] if lines else 'no message'})", "see `avatarctl doctor`"
    )
