"""Compare what a render will write with the free space of the disks that it writes to."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from avatarctl import durable
from avatarctl.audio.source import AudioInfo
from avatarctl.console import size
from avatarctl.errors import DeviceError
from avatarctl.render.estimate import Estimate
from avatarctl.settings.render import RenderJob

# Beside the encoded segments: the preview, and the joined video before it moves to its place.
COPIES_IN_FOLDER = 3
# A video of a still face can be this much smaller than estimated.
LEAST_SHARE = 0.05
PNG_BYTES_PER_PIXEL = 1.5


@dataclass(frozen=True)
class Need:
    """Bytes that will be written below a folder: expected ones, and ``least_bytes`` that are certain."""

    folder: Path
    what: str
    bytes: int
    least_bytes: int


@dataclass(frozen=True)
class Disk:
    """One disk: what will be written to it, and what is free."""

    folder: Path
    needs: tuple[Need, ...]
    free_bytes: int

    @property
    def bytes(self) -> int:
        """Return the bytes that are expected."""
        return sum(need.bytes for need in self.needs)

    @property
    def least_bytes(self) -> int:
        """Return the bytes that are certain."""
        return sum(need.least_bytes for need in self.needs)


def needs_of(job: RenderJob, planned: Estimate, audio: AudioInfo | None = None) -> list[Need]:
    """Return what a render writes, its folder first; less what it has written already, if it is resumed.

    ``audio``: the recording, whose decoded sound is kept too.
    """
    least_video = int(planned.video_bytes * LEAST_SHARE)
    track = int(planned.video_s * audio.rate_hz * audio.channels * 4) if audio and job.render.with_audio else 0
    there = sum(file.stat().st_size for file in job.folder.rglob("*") if file.is_file()) if job.folder.is_dir() else 0
    found = [
        Need(
            job.folder,
            "the render folder",
            max(planned.cache_bytes + track + COPIES_IN_FOLDER * planned.video_bytes - there, 0),
            max(planned.least_bytes + 2 * least_video - there, 0),
        ),
        Need(durable.through(job.output).parent, "the video", planned.video_bytes, least_video),
    ]
    if job.frames is not None:
        width, height = job.render.size
        every = planned.pictures * width * height
        found.append(Need(job.frames, "the pictures", int(every * PNG_BYTES_PER_PIXEL), every // 20))
    return found


def disks_of(needs: Iterable[Need]) -> list[Disk]:
    """Group needs by the disk that they lie on."""
    groups: dict[int, list[Need]] = {}
    for need in needs:
        groups.setdefault(_above(need.folder).stat().st_dev, []).append(need)
    return [
        Disk(group[0].folder, tuple(group), shutil.disk_usage(_above(group[0].folder)).free)
        for group in groups.values()
    ]


def check_room(disks: Iterable[Disk]) -> None:
    """Refuse to begin what clearly can't end; raises ``DeviceError``."""
    for disk in disks:
        if disk.least_bytes > disk.free_bytes:
            what = " and ".join(dict.fromkeys(need.what for need in disk.needs if need.least_bytes))
            raise DeviceError(
                f"{disk.folder}: the disk is full or too small: got {size(disk.free_bytes)} free, expected at "
                f"least {size(disk.least_bytes)} for {what} (about {size(disk.bytes)} in all)",
                "free some space and run the same command again (what is begun is resumed), or choose another disk with "
                "--work-dir and --output",
            )


def in_words(disks: Iterable[Disk]) -> str:
    """Return it for people: ``8 MB of 12.3 GB free in videos``."""
    lines = []
    for disk in disks:
        tight = ": this may not be enough" if disk.bytes > disk.free_bytes else ""
        lines.append(f"about {size(disk.bytes)} of {size(disk.free_bytes)} free in {_above(disk.folder)}{tight}")
    return "; ".join(lines)


def _above(folder: Path) -> Path:
    """Return the folder itself, or the nearest one above it that is there."""
    return next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
