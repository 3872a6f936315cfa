"""Turn what may happen amid hours of work into clear errors: an unreadable file, a signal, a device out of memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from avatarctl.errors import DeviceError, InputFileError, Interrupted
from avatarctl.interrupts import handling


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what the system says of a clip's files into an error of that clip."""
    try:
        yield
    except OSError as error:
        where = error.filename or path
        raise InputFileError(f"{where}: can't be read ({error.strerror or error})") from error


@contextmanager
def interruptible() -> Iterator[None]:
    """Stop at once at Ctrl-C or SIGTERM: the clip at hand is not listed, all others are kept."""

    def stop(number: int) -> None:
        raise Interrupted(
            "stopped; every clip that was finished is kept", "run the same command again to continue", number
        )

    with handling(stop):
        yield


@contextmanager
def full_device() -> Iterator[None]:
    """Turn a device out of memory into an error that says what to do."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        what = str(error).splitlines()[0]
        raise DeviceError(f"device: out of memory ({what})", "use --device cpu, or a GPU with more memory") from error
    except MemoryError as error:
        raise DeviceError("out of memory", "close other programs; run the same command again to continue") from error
