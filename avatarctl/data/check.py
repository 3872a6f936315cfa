"""Describe a cache: counts, lengths, sizes, damaged samples, and a sheet with a picture of each sample."""

from __future__ import annotations

import hashlib
import io
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from PIL import Image, ImageDraw, UnidentifiedImageError

from avatarctl import durable
from avatarctl.data.shard_writer import ShardWriter
from avatarctl.data.shards import (
    NULL,
    SHARDS,
    Index,
    SampleEntry,
    all_finite,
    read_about,
    read_bytes,
)
from avatarctl.errors import InputFileError
from avatarctl.progress import Progress

MOST_ON_SHEET = 400
TILE_PX, LABEL_PX = 160, 14
LEGEND = "green: face mask, red: lip mask"


@dataclass
class Group:
    """Samples of one bucket or kind."""

    samples: int = 0
    seconds: float = 0.0
    bytes: int = 0

    def add(self, entry: SampleEntry) -> None:
        """Count a sample; what fills up a window of a short clip is no length of it."""
        self.samples += 1
        self.seconds += float(entry.meta["frames"] / Fraction(entry.meta["fps"]))
        self.bytes += entry.size


@dataclass
class Report:
    """What a cache holds. ``damaged``: keys of samples; ``skipped`` and ``failed``: (clip, reason) each.

    ``twice``: clips of the same content under another name.
    """

    cache: Path
    total: Group = field(default_factory=Group)
    buckets: dict[str, Group] = field(default_factory=dict)
    kinds: dict[str, Group] = field(default_factory=dict)
    clips: dict[str, int] = field(default_factory=dict)
    padded: int = 0
    without_masks: int = 0
    notes: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    twice: int = 0
    null_text_whole: bool = True
    disk_bytes: int = 0


def check(cache: Path, show: Progress) -> Report:
    """Read every sample of a cache: it is damaged unless its bytes are those that were written and its numbers finite.

    Raises ``InputFileError`` when it is no cache.
    """
    about, index = read_about(cache), Index(cache)
    report = Report(cache)
    report.null_text_whole = durable.digest(cache / NULL) == about["null_sha256"]
    for key in sorted(index.clips):
        facts = index.clips[key].facts
        status = facts["status"]
        report.clips[status] = report.clips.get(status, 0) + 1
        report.notes += facts.get("notes", [])
        if status in ("skipped", "failed"):
            getattr(report, status).append((facts["name"], facts["reason"]))
    contents = Counter(clip.made_of for clip in index.clips.values() if clip.samples)
    report.twice = sum(count - 1 for count in contents.values())
    samples = index.samples()
    for place, entry in enumerate(samples, start=1):
        _count(report, entry)
        data = read_bytes(cache, entry.shard, entry.offset, entry.size)
        if data is None or hashlib.sha256(data).hexdigest() != entry.sha256 or not all_finite(data):
            report.damaged.append(entry.key)
        show(place, len(samples))
    report.disk_bytes = sum(path.stat().st_size for path in (cache / SHARDS).glob("*.tar"))
    return report


def _count(report: Report, entry: SampleEntry) -> None:
    meta, frames = entry.meta, 4 * (entry.shapes["latents"][1] - 1) + 1
    bucket = f"{meta['width']}x{meta['height']}, {float(Fraction(meta['fps'])):g} fps"
    report.total.add(entry)
    report.buckets.setdefault(bucket, Group()).add(entry)
    report.kinds.setdefault(meta["kind"] or "unknown", Group()).add(entry)
    report.padded += meta["frames"] < frames
    report.without_masks += not meta["has_masks"]


def repair(cache: Path, damaged: Iterable[str]) -> list[str]:
    """Take the clips of damaged samples, and clips that failed, off the index; return their names.

    The next encoding makes them again.
    """
    keys, index, names = set(damaged), Index(cache), []
    with ShardWriter(cache) as writer:
        for key, clip in sorted(index.clips.items()):
            if clip.facts["status"] == "failed" or any(sample.key in keys for sample in clip.samples):
                facts = {"name": clip.facts["name"], "source": clip.facts["source"], "status": "dropped"}
                writer.add(key, "", [], clip.generation + 1, facts)
                names.append(clip.facts["name"])
    return names


def contact_sheet(cache: Path, target: Path) -> int:
    """Write a JPEG with the first picture of samples, masks tinted; of many, evenly spread ones. Give their number.

    Raises ``InputFileError`` for a cache without samples, or a target that can't be written.
    """
    samples = Index(cache).samples()
    if not samples:
        raise InputFileError(f"{cache}: got no samples, expected some to show", "avatarctl data encode SOURCE")
    count = min(len(samples), MOST_ON_SHEET)
    chosen = [samples[place * len(samples) // count] for place in range(count)]
    columns = math.ceil(math.sqrt(count))
    height = TILE_PX + LABEL_PX
    rows = math.ceil(count / columns)
    sheet = Image.new("RGB", (columns * TILE_PX, rows * height + LABEL_PX), "white")
    pen = ImageDraw.Draw(sheet)
    for place, entry in enumerate(chosen):
        left, top = place % columns * TILE_PX, place // columns * height
        picture = _thumb(cache, entry)
        sheet.paste(picture, (left + (TILE_PX - picture.width) // 2, top))
        second = float(entry.meta["start_frame"] / Fraction(entry.meta["fps"]))
        name = entry.meta["source"].encode("ascii", "replace").decode()
        pen.text((left + 2, top + TILE_PX), label(name, f" {second:.1f}s", pen), fill="black")
    pen.text((2, rows * height), LEGEND, fill="black")
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=90)
    with durable.guarded(target, full="free some space", elsewhere="choose another --contact-sheet"):
        durable.replace(target, buffer.getvalue())
    return count


def label(name: str, after: str, pen: ImageDraw.ImageDraw) -> str:
    """Return a name with ``after`` as wide as a tile at most: leading folders are left out, then the middle of the name."""
    if pen.textlength(name + after) <= TILE_PX - 4:
        return name + after
    parts = name.split("/")
    for first in range(1, len(parts)):
        short = ".../" + "/".join(parts[first:])
        if pen.textlength(short + after) <= TILE_PX - 4:
            return short + after
    last, kept = parts[-1], len(parts[-1])
    while kept > 2 and pen.textlength(f"{last[: kept // 2]}...{last[-(kept // 2) :]}{after}") > TILE_PX - 4:
        kept -= 1
    return f"{last[: kept // 2]}...{last[-(kept // 2) :]}{after}"


def _thumb(cache: Path, entry: SampleEntry) -> Image.Image:
    """Return a sample's picture, or a red tile when it is damaged: the sheet is for looking at what is there."""
    data = read_bytes(cache, entry.shard, *entry.thumb)
    try:
        with Image.open(io.BytesIO(data or b"")) as picture:
            return picture.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        return Image.new("RGB", (TILE_PX, TILE_PX), "red")
