"""Turn what a disk refuses into errors that say what to do about a render."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from avatarctl import durable
from avatarctl.errors import InputFileError
from avatarctl.paths import HERE_IS_GONE, here_is_gone


@contextmanager
def guarded(path: Path, render: Path | None = None) -> Iterator[None]:
    """Turn a full disk, a read-only or deleted folder and the like into errors that say what to do about a render.

    ``render``: its folder, which hints name.
    """
    again = "avatarctl resume" + (f" {shlex.quote(str(render))}" if render is not None else "")
    full = f"free some space and run `{again}`, or the same command again: what is finished is kept"
    try:
        with durable.guarded(path, full=full, elsewhere="choose another with --work-dir"):
            yield
    except FileNotFoundError as error:
        if not here_is_gone() and path.is_dir():
            raise  # something else is
        raise gone(path) from error


def gone(path: Path) -> InputFileError:
    """Return the error for a folder that was deleted or moved while the render ran, or for the current one."""
    if here_is_gone():
        return InputFileError(*HERE_IS_GONE)
    return InputFileError(
        f"{path}: was deleted or moved while the render ran",
        "put it back and run `avatarctl resume`, or run the same command again, which begins from the start",
    )
