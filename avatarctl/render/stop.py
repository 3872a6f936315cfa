"""Turn signals into a stop that loses nothing, and device errors into errors with a hint."""

from __future__ import annotations

import shlex
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch

from avatarctl.errors import DeviceError, InputFileError, Interrupted
from avatarctl.networks.full import is_full, is_main_memory
from avatarctl.render.folder import RenderFolder
from avatarctl.render.guard import gone
from avatarctl.render.place import first_line, no_memory
from avatarctl.settings.render import RenderJob


class Stop:
    """Whether somebody asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal = 0

    @property
    def asked(self) -> bool:
        """Return whether to stop after this window step."""
        return self.signal != 0

    def check(self, folder: RenderFolder, saved: str = "nothing is lost") -> None:
        """Stop here, if asked: raises ``Interrupted`` with the command that goes on."""
        if self.asked:
            folder.event("interrupted", signal=self.signal)
            hint = f"resume with: avatarctl resume {shlex.quote(str(folder.path))}"
            raise Interrupted(f"stopped; {saved}", hint, self.signal)


@contextmanager
def stopping() -> Iterator[Stop]:
    """Let the first Ctrl-C or SIGTERM finish the window step and checkpoint; the second one stops at once."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may watch for signals
        return

    def heard(number: int, _: FrameType | None) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.signal = number

    before = {number: signal.signal(number, heard) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def no_grad_on(job: RenderJob) -> Iterator[None]:
    """Compute without gradients; turn a full device, and a folder that is gone, into errors that say what to do."""
    try:
        with torch.no_grad():
            yield
    except (MemoryError, RuntimeError) as error:
        if not is_full(error):
            raise
        if is_main_memory(error):
            raise DeviceError(
                f"main memory is full ({first_line(error)}); what is done is kept",
                f"end other programs and resume: avatarctl resume {shlex.quote(str(job.folder))}",
            ) from error
        raise no_memory(job, error) from error
    except (FileNotFoundError, InputFileError, DeviceError) as error:
        if not job.folder.is_dir():  # whatever failed first: a reader, a writer or an encoder of its own process
            raise gone(job.folder) from error
        if not isinstance(error, FileNotFoundError):
            raise
        raise InputFileError(f"{error.filename}: disappeared while rendering", "put it back and resume") from error
