"""Whether a batch may write where it is told to: its own summary, free space for all videos; never another's file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from avatarctl import durable, ownership
from avatarctl.batch.plan import Planned
from avatarctl.batch.tally import SUMMARY
from avatarctl.errors import UsageError
from avatarctl.render.room import check_room, disks_of, needs_of

OURS = ("counts", "items", "workers")


def check_folder(output: Path) -> None:
    """Refuse an output folder that can't be made, or whose summary is not one of ours; raises ``UsageError``."""
    ownership.check_name(output, "--output", "a folder for the videos", "--output videos")
    ownership.check_can_make(output, "--output")
    summary = output / SUMMARY
    if summary.is_dir() or (summary.exists() and not set(OURS) <= set(durable.read_json(summary) or {})):
        raise UsageError(
            f"{summary}: exists already, and no batch wrote it", "move it elsewhere, or choose another --output"
        )


def check_fits(planned: Sequence[Planned]) -> None:
    """Refuse what clearly can't fit on the disks: all videos, and the largest render folder; raises ``DeviceError``."""
    folders, videos = [], []
    for each in planned:
        folder, *others = needs_of(each.item.job, each.takes)
        folders.append(folder)
        videos += others
    if folders:
        check_room(disks_of([max(folders, key=lambda need: need.least_bytes), *videos]))
