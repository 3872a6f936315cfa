"""What a launcher (`torchrun`, `accelerate launch`, a cluster's own) says of this process: its number among how many."""

from __future__ import annotations

import os

from avatarctl.errors import UsageError

NEEDED = ("RANK", "MASTER_ADDR", "MASTER_PORT")
FOLLOWS = (("WORLD_SIZE", 1), ("RANK", 0))


def launched() -> bool:
    """Return whether a launcher started several processes for this command; raises ``UsageError`` for half of its words."""
    if size() == 1:
        return False
    if missing := [name for name in NEEDED if name not in os.environ]:
        raise UsageError(
            f"WORLD_SIZE: got {size()} processes without {', '.join(missing)}, expected what a launcher sets",
            "start it with torchrun or accelerate launch, or run `unset WORLD_SIZE` for one process",
        )
    if not 0 <= rank() < size():
        raise UsageError(
            f"RANK: got {rank()} of {size()} processes, expected 0 to {size() - 1}",
            "start it with torchrun or accelerate launch",
        )
    return True


def follows() -> bool:
    """Return whether another process leads this one: what a program that watches has to know, that one tells."""
    return all(os.environ.get(name, "").isdecimal() and int(os.environ[name]) > least for name, least in FOLLOWS)


def refuse(command: str, why: str) -> None:
    """Raise ``UsageError`` where a launcher started several processes for a command that is no work of several."""
    if launched():
        raise UsageError(
            f"{command}: got {size()} processes of a launcher, expected one: {why}",
            f"run {command} without torchrun or accelerate launch",
        )


def size() -> int:
    """Return how many processes the launcher started; 1 without one."""
    return _number("WORLD_SIZE", 1)


def rank() -> int:
    """Return this process's number; 0 leads."""
    return _number("RANK", 0)


def local_rank() -> int:
    """Return this process's number on this machine, which is that of its GPU."""
    return _number("LOCAL_RANK", 0)


def meeting_place() -> tuple[str, int]:
    """Return the address and the port at which the processes meet."""
    return os.environ["MASTER_ADDR"], _number("MASTER_PORT", 0)


def _number(name: str, default: int) -> int:
    value = os.environ.get(name, "").strip() or str(default)
    if not value.isdecimal():
        raise UsageError(f"{name}: got {value!r}, expected a whole number, as launchers set it", f"run `unset {name}`")
    return int(value)
