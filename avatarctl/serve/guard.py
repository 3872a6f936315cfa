"""Turn what a disk refuses to a server into errors that say what its operator can do, without places of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from avatarctl import durable
from avatarctl.errors import InputFileError

FULL = "free some space on the server's disk: jobs that wait continue by themselves"
ELSEWHERE = "look at the server's --folder, or start it with another one"


@contextmanager
def guarded(path: Path) -> Iterator[None]:
    """Turn a full disk, a folder that can't be written and one that was deleted into errors."""
    try:
        with durable.guarded(Path(path.name), full=FULL, elsewhere=ELSEWHERE):
            yield
    except FileNotFoundError as error:
        if path.is_dir():
            raise  # something else is
        raise InputFileError(
            f"{path.name}: its folder was deleted or moved", "put it back, or make a new job"
        ) from error
