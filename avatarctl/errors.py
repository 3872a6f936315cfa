"""Exceptions with a message, the command that fixes the problem, and an exit code."""

from __future__ import annotations

from typing import Any


class AvatarError(Exception):
    """A mistake or a condition that the user can mend.

    ``message`` names the thing and reads "got X, expected Y"; ``hint`` is the command or the change that fixes it.
    ``exit_code`` is what the command line ends with (the table is in the README), ``data`` what was found all the same.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.data: dict[str, Any] = {}


class UsageError(AvatarError):
    """A setting or a combination of settings that can't work."""

    exit_code = 2


class PartialFailure(AvatarError):
    """Some items of a batch failed, the others are done."""

    exit_code = 3


class InputFileError(AvatarError):
    """A picture, recording or data file that can't be used."""

    exit_code = 4


class WeightsError(AvatarError):
    """Weights that are missing, damaged or of another network."""

    exit_code = 5


class BusyError(AvatarError):
    """The render folder is held by another process."""

    exit_code = 6


class ChangedError(AvatarError):
    """Inputs, weights or settings changed since the render began."""

    exit_code = 7


class DeviceError(AvatarError):
    """No such device, not enough memory on it, or a full disk."""

    exit_code = 8


class QualityError(AvatarError):
    """A measured quality is below what was asked for."""

    exit_code = 9


class Interrupted(AvatarError):
    """Stopped by Ctrl-C or a signal; what was done is saved."""

    def __init__(self, message: str, hint: str, signal_number: int) -> None:
        super().__init__(message, hint)
        self.exit_code = 128 + signal_number


class ProcessLost(AvatarError):
    """Another process of a launcher was killed, or ended with an error; what was done is saved."""

    exit_code = 8


class Ended(AvatarError):
    """Another process of a launcher ended the render and told the user why: this one ends silently, with its exit code."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("process 0 ended the render")
        self.exit_code = exit_code


def some(names: list[str], most: int = 8) -> str:
    """Return the first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" … and {len(names) - most} more" if len(names) > most else "")
