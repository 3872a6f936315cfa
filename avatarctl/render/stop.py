"""Stop a render where it was asked to, and turn device errors into errors with a hint."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from avatarctl.errors import DeviceError, InputFileError, Interrupted
from avatarctl.interrupts import Stop
from avatarctl.networks.full import is_full, is_main_memory
from avatarctl.render.folder import RenderFolder
from avatarctl.render.guard import gone
from avatarctl.render.place import first_line, no_memory
from avatarctl.settings.render import RenderJob


def check(stop: Stop, folder: RenderFolder, saved: str = "nothing is lost") -> None:
    """Stop here, if asked: raises ``Interrupted`` with the command that resumes."""
    if stop.asked:
        folder.event("interrupted", signal=stop.signal)
        hint = f"resume with: avatarctl resume {shlex.quote(str(folder.path))}"
        raise Interrupted(f"stopped; {saved}", hint, stop.signal)


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
