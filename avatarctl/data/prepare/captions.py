"""Write the caption of a clip: of a text beside its footage, of a program of the user's, or of a template."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from avatarctl.errors import InputFileError, UsageError
from avatarctl.settings.prepare import PrepareSettings
from avatarctl.textfiles import read_text

CAPTION = "A person is speaking to the camera."
COMMAND_S = 600


def caption_of(source: Path, settings: PrepareSettings) -> Callable[[Path], str]:
    """Return what writes the caption of a clip: of the file beside its footage, a program's, the setting's or the template."""
    beside = source.with_suffix(".txt")
    if beside.is_file():
        text = " ".join(read_text(beside, InputFileError).split())
        if text:
            return lambda _: text
    if settings.caption_command:
        command = settings.caption_command
        return lambda clip: _run(command, clip)
    return lambda _: settings.caption or CAPTION


def _run(command: str, clip: Path) -> str:
    """Run the user's program on a clip and return what it writes."""
    words = shlex.split(command)
    hint = "it is called with the path of a clip and writes a caption: --caption-command './caption.sh'"
    try:
        done: Any = subprocess.run(
            [*words, str(clip)], capture_output=True, check=False, timeout=COMMAND_S, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"--caption-command: {command}: {error}", hint) from error
    text = " ".join(done.stdout.decode("utf-8", "replace").split())
    if done.returncode or not text:
        said = done.stderr.decode("utf-8", "replace").strip()[:200]
        what = f"exit code {done.returncode}" if done.returncode else "no text"
        raise UsageError(
            f"--caption-command: {command}: got {what} for {clip.name}{f' ({said})' if said else ''}", hint
        )
    return text
