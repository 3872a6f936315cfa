"""Show the progress of long work on stderr: a line that moves, lines of a log, or JSON lines; the only file that imports rich."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, Protocol

from avatarctl.console import clock, note, size, write_event


class Progress(Protocol):
    """What long work reports while it runs."""

    def __call__(self, done: int, total: int, **facts: Any) -> None:
        """Tell that ``done`` of ``total`` units are done; ``facts`` are further numbers (seconds of video …).

        ``total`` 0 tells of a stage without a count: ``stage`` is its name, ``fraction`` how much of it is done.
        """


# What is counted, as people read it; JSON keeps the name.
SINGULAR = {
    "window steps": "pass",
    "steps": "step",
    "clips": "clip",
    "files": "file",
    "samples": "sample",
    "renders": "render",
    "pictures": "picture",
}
# What is being done while they are counted, where a report doesn't say.
STAGES = {
    "steps": "training",
    "clips": "encoding",
    "files": "reading",
    "samples": "checking",
    "renders": "rendering",
    "pictures": "measuring",
}
EVERY_S = 10.0  # between lines where no terminal is


@contextmanager
def showing(kind: Literal["auto", "json", "none"], unit: str = "window steps") -> Iterator[Progress]:
    """Show progress on stderr: a line that moves on a terminal, a line every ten seconds elsewhere, or JSON lines.

    ``unit`` is what is counted: window steps of a render, steps of a training run, clips, bytes. Nothing shows before the
    first report, and nothing of the moving line stays.
    """
    if kind == "none":
        yield _silent
    elif kind == "json":
        yield _Events(unit.replace(" ", "_"))
    elif sys.stderr.isatty():
        with _bar(unit) as show:
            yield show
    else:
        yield _Lines(unit)


def _silent(done: int, total: int, **facts: Any) -> None:
    """Show nothing."""


class _Events:
    """One JSON object per report: ``stage`` when a stage begins or moves, ``progress`` when something was counted."""

    def __init__(self, unit: str) -> None:
        self._unit = unit

    def __call__(self, done: int, total: int, **facts: Any) -> None:
        if total or "stage" not in facts:
            if "item" not in facts:
                facts.pop("stage", None)
            write_event("progress", {self._unit: done, "of": total, **facts})
        else:
            write_event("stage", facts)


def _words(done: int, total: int, facts: Mapping[str, Any], unit: str, width: int = 80) -> str:
    """Return the numbers of a report, the most telling first, as many as fit so many columns."""
    parts = []
    if "of_bytes" in facts:
        parts.append(f"{size(facts['bytes'])} of {size(facts['of_bytes'])}")
    elif total:
        parts.append(f"{SINGULAR.get(unit, unit)} {done}/{total}")
    if (speed := facts.get("bytes_per_s")) is not None:
        parts.append(f"{size(speed)}/s")
    if (left_s := facts.get("left_s")) is not None:
        parts.append(f"{clock(left_s)} left")
    if (loss := facts.get("loss")) is not None:
        parts.append(f"loss {loss:.4f}")
    if (video_s := facts.get("video_s")) is not None:
        whole_s = facts.get("of_s")
        parts.append(f"{clock(video_s)} of video" if whole_s is None else f"video {clock(video_s)}/{clock(whole_s)}")
    if (name := facts.get("name") or facts.get("item")) is not None:
        parts.append(str(name))
    while len(parts) > 1 and len(", ".join(parts)) > width:
        parts.pop()
    return ", ".join(parts)


def _stage(total: int, facts: Mapping[str, Any], unit: str, before: str) -> str:
    """Return the stage that a report belongs to."""
    return str(facts.get("stage") or (STAGES.get(unit, before) if total else before))


class _Lines:
    """A line at most every so many seconds, for logs."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._last = -EVERY_S
        self._stage = ""

    def __call__(self, done: int, total: int, **facts: Any) -> None:
        self._stage = _stage(total, facts, self._unit, self._stage)
        now = time.monotonic()
        if now - self._last < EVERY_S and not (total and done == total):
            return
        fraction = facts.get("fraction", done / total if total else None)
        if not total and fraction is None:
            return  # a stage that has only begun: the line before it is news enough
        self._last = now
        share = "" if fraction is None else f"{fraction:.0%}"
        words = _words(done, total, facts, self._unit, 200)
        note(", ".join(part for part in (f"{self._stage} {share}".strip(), words) if part))


@contextmanager
def _bar(unit: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.constrain import Constrain
    from rich.progress import BarColumn, SpinnerColumn, TextColumn
    from rich.progress import Progress as RichProgress
    from rich.table import Column

    class Line(RichProgress):
        def get_renderables(self) -> Iterator[Constrain]:
            """Leave room for what a terminal shows of Ctrl-C, which would break the line."""
            yield Constrain(self.make_tasks_table(self.tasks), terminal.width - 2)

    terminal = Console(stderr=True)
    text = (TextColumn("{task.fields[stage]}", table_column=Column(no_wrap=True, width=10)),)
    bar = Line(
        SpinnerColumn("line" if terminal.options.ascii_only else "dots"),
        *text,
        BarColumn(bar_width=None),
        TextColumn("{task.fields[share]:>4}", table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[words]}", markup=False, table_column=Column(no_wrap=True)),
        console=terminal,
        transient=True,
        expand=True,
    )
    task = bar.add_task("", total=None, stage="", share="", words="")
    stage = ""

    def show(done: int, total: int, **facts: Any) -> None:
        nonlocal stage
        stage = _stage(total, facts, unit, stage)
        fraction = facts.get("fraction", done / total if total else None)
        words = _words(done, total, facts, unit, terminal.width - 34)
        share = "" if fraction is None else f"{fraction:.0%}"
        bar.update(
            task,
            total=None if fraction is None else 1.0,
            completed=fraction or 0,
            stage=stage,
            share=share,
            words=words,
        )
        bar.start()  # once: before the first report there is nothing to show

    try:
        yield show
    finally:
        bar.stop()
