"""Prepare footage, shared by any number of processes: look, decide, write, report. READ FIRST in this folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from avatarctl.audio.silero import ear_of
from avatarctl.data import cache as caches
from avatarctl.data.discover import REPORTS
from avatarctl.data.guards import full_device, interruptible
from avatarctl.data.prepare import report
from avatarctl.data.prepare.one import Looking, Tools, prepare_one
from avatarctl.data.prepare.records import Home, Record, known
from avatarctl.data.prepare.sources import Earlier, Source, copies, find_sources
from avatarctl.data.sound import separation
from avatarctl.progress import Progress
from avatarctl.settings.prepare import PrepareJob
from avatarctl.weights import usable_separator


@dataclass
class Prepared:
    """What became of footage. ``rows``: every candidate of this run's files, as prepare.jsonl has it."""

    clips: Path
    summary: report.Summary
    rows: list[dict[str, Any]] = field(default_factory=list)
    new: int = 0
    known: int = 0
    passed_over: list[str] = field(default_factory=list)
    wall_s: float = 0.0


def prepare(job: PrepareJob, show: Progress) -> Prepared:
    """Turn footage into clips; files that are known already are left alone.

    Any number of processes may do so on one folder at once; each takes the files that no other has. A kill loses the file
    that is being looked at, or the clips that are being written. Raises ``ChangedError`` for a folder of clips made with
    other settings, ``InputFileError`` for what can't be read, ``DeviceError`` for a full disk, ``Interrupted`` after Ctrl-C
    or SIGTERM.
    """
    began = time.monotonic()
    home = Home(job.clips)
    home.check(None if job.force or job.dry_run else job.settings)
    settings = job.settings
    separator = usable_separator(job.weights) if settings.separate_vocals else None
    through = separation(separator) if separator is not None else None
    tools = Tools(home, settings, ear_of(settings.speech), through, _device(job.device), job.dry_run)
    with interruptible(), full_device(), caches.guarded(job.clips):
        if job.force and not job.dry_run:
            home.clear()
        home.begin(None if job.dry_run else settings)
        sources, over = find_sources(job.raw, job.clips, {each.source: each.name for each in home.records()})
        done = Prepared(job.clips, report.Summary(), passed_over=over)
        records = _take(tools, sources, done, show)
        _tell(tools, done, records)
    done.wall_s = time.monotonic() - began
    return done


def _take(tools: Tools, sources: list[Source], done: Prepared, show: Progress) -> dict[str, Record]:
    """Take the files one by one: first those that nobody holds, then wait for those that others held."""
    began, home = time.monotonic(), tools.home
    names = {source.name for source in sources}
    before = [each for each in home.records() if each.done or each.name in names]
    twice = copies(sources, [Earlier(each.name, each.stamp, each.sha256, each.is_copy) for each in before])
    records: dict[str, Record] = {}
    left: Sequence[Source] = sources
    for wait in (False, True):
        held = []
        for source in left:
            with caches.claimed(home.folder, source.key, wait) as ours:
                if not ours:
                    held.append(source)
                    continue
                copy_of = twice.get(source.name)
                old = None if tools.dry_run else known(home, source, copy_of)
                record = old or prepare_one(tools, source, copy_of, _looking(source, show))
            done.known += old is not None
            done.new += old is None
            records[source.name] = record
            rate = {"left_s": (time.monotonic() - began) / done.new * (len(sources) - len(records))} if done.new else {}
            show(len(records), len(sources), **rate)
        left = held
    return records


def _looking(source: Source, show: Progress) -> Looking:
    return lambda fraction: show(0, 0, stage=f"looking at {source.path.name}", fraction=fraction)


def _tell(tools: Tools, done: Prepared, records: dict[str, Record]) -> None:
    """Write the reports of all that is in the folder; ``done`` has what became of this run's files.

    A dry run beside clips that are there writes none: theirs were made with settings of their own.
    """
    home, clips = tools.home, tools.home.clips
    ours = [record for _, record in sorted(records.items())]
    every = ours if tools.dry_run else home.records()
    if tools.dry_run and home.begun():
        done.summary = report.summed(every)
    else:
        done.summary = report.write_reports(clips, every, tools.settings.that_count())
        rows = [(record, row) for record in every for row in record.rows]
        count = min(len(rows), report.MOST_ON_SHEET)
        if shown := [rows[place * len(rows) // count] for place in range(count)]:
            report.write_sheet(clips / REPORTS[2], list(report.tiles_of(home, shown)))
    done.rows = [report.public(row, record, clips) for record in ours for row in record.rows]


def _device(name: str) -> str:
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"
