"""`avatarctl doctor`: report what this machine has for rendering, what is missing, and how to fix it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avatarctl import console
from avatarctl.commands.options import AsJson, Weights

if TYPE_CHECKING:
    from avatarctl.checks.check import Check


def doctor(weights: Weights = None, as_json: AsJson = False) -> None:
    """Check this machine: torch, GPU, memory, ffmpeg, weights, disk, settings. Works when torch is broken or missing.

    Exits with 0 when nothing fails, else with the code of the first failure (8 machine, 5 weights, 2 settings). Weights
    that were never fetched are no failure: the embedded avatar needs none.

    Example: avatarctl doctor
    """
    from avatarctl.checks.check import Unfit, report
    from avatarctl.checks.examine import examine

    console.note("looking at torch and the GPUs …")
    checks = examine(weights)
    failed = any(check.state == "fail" for check in checks)
    if not (failed and as_json):  # else the error carries them
        console.result("doctor", report(checks), _text(checks), as_json)
    if failed:
        problem = Unfit(checks)
        if not as_json and console.one_terminal():
            problem.hint = ""  # the table has it
        raise problem


def _text(checks: list[Check]) -> str:
    found = console.table(("STATE", "CHECK", "FOUND"), [(check.state, check.name, check.found) for check in checks])
    fixes: dict[str, list[str]] = {}
    for check in checks:
        if check.fix:
            fixes.setdefault(check.fix, []).append(check.name)
    if not fixes:
        return console.painted(found)
    rows = [(", ".join(names), fix) for fix, names in fixes.items()]
    return f"{console.painted(found)}\n\n{console.table(('CHECK', 'TO FIX IT'), rows)}"
