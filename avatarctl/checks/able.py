"""Say what can be made on this machine, out of the rows of all checks; what nobody needs for that is no failure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from avatarctl.checks.check import Check
from avatarctl.checks.files import FETCH
from avatarctl.paths import embedded_avatar

# Without these no video is made at all.
EVERY_VIDEO = ("Python", "packages", "torch", "attention", "ffmpeg", "folders", "environment")
# What the released network needs beyond that, and the embedded avatar doesn't.
RELEASED = ("weights", "fits")


def ables(rows: Sequence[Check]) -> list[Check]:
    """Return two rows: whether the embedded avatar runs here, and whether the released network does."""
    failed = [row for row in rows if row.state == "fail"]
    lacking = [row.name for row in failed if row.name in EVERY_VIDEO]
    if not (embedded_avatar() / "weights").is_dir():
        lacking.append("its files, which come with the program")
    by_name = {row.name: row for row in rows}
    return [_embedded(lacking), _released(by_name, lacking)]


def _embedded(lacking: Sequence[str]) -> Check:
    if lacking:  # what is lacking fails already
        return Check("embedded avatar", "warn", f"can't run: see {', '.join(lacking)}", "fix these first")
    return Check("embedded avatar", "ok", "runs: avatarctl demo")


def _released(rows: dict[str, Check], lacking: Sequence[str]) -> Check:
    name = "StableAvatar 1.3B"
    gpus = [row for row in rows.values() if row.name.startswith("GPU ") and row.state != "fail"]
    where = "on the GPU" if gpus else "on the CPU, slowly"
    if missing := [row for row in (rows.get("weights"),) if row is not None and row.state == "fail"]:
        damaged = "variants" in missing[0].facts
        why = "the weights are damaged" if damaged else "the weights are missing"
        return Check(name, "warn", f"can't run: {why}", FETCH)
    if lacking:
        return Check(name, "warn", f"can't run: see {', '.join(lacking)}", "fix these first")
    if rows.get("fits") is not None and rows["fits"].state == "fail":
        return Check(name, "warn", "can't run: too little memory is free", rows["fits"].fix)
    return Check(name, "ok", f"runs {where}")


def without_needless_failures(rows: Sequence[Check]) -> list[Check]:
    """Return rows in which weights that were never fetched, and memory for them, only warn where the embedded avatar runs."""
    if _embedded([row.name for row in rows if row.state == "fail" and row.name in EVERY_VIDEO]).state != "ok":
        return list(rows)
    return [
        replace(row, state="warn")
        if row.state == "fail" and row.name in RELEASED and "variants" not in row.facts
        else row
        for row in rows
    ]
