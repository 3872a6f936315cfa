"""One row of the doctor's table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from avatarctl.errors import AvatarError, DeviceError

GIB = 1 << 30


@dataclass(frozen=True)
class Check:
    """One check: its name, how it went, what was found, and the command or change that mends it.

    ``error``: the kind of error that a render would end with, whose exit code is the doctor's when the check failed.
    ``facts``: what was found, for programs.
    """

    name: str
    state: Literal["ok", "warn", "fail"]
    found: str
    fix: str = ""
    error: type[AvatarError] = DeviceError
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""
        return {key: value for key, value in asdict(self).items() if key != "error"}


def gib(count: float) -> str:
    """Return bytes in words: "11.2 GiB"."""
    return f"{count / GIB:.1f} GiB"


class Unfit(AvatarError):
    """Some checks failed. ``data`` are all of them, ``exit_code`` is that of the first that failed."""

    def __init__(self, checks: Sequence[Check]) -> None:
        failed = [check for check in checks if check.state == "fail"]
        names = ", ".join(check.name for check in failed)
        super().__init__(f"{len(failed)} of {len(checks)} checks failed: {names}", failed[0].fix)
        self.exit_code = failed[0].error.exit_code
        self.data = report(checks)


def report(checks: Sequence[Check]) -> dict[str, Any]:
    """Return the checks and how many went how, as JSON holds them."""
    states = [check.state for check in checks]
    return {"checks": [check.to_json() for check in checks], **{s: states.count(s) for s in ("ok", "warn", "fail")}}
