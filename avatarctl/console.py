"""Print results, progress and errors for people and scripts; the only file that imports rich."""

from __future__ import annotations

import codecs
import io
import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, Protocol

from avatarctl import jsontext
from avatarctl.errors import AvatarError

RESULT_VERSION = 1
_quiet = False
_json_lines = False
# What terminals without these characters show in their place.
PLAIN = {"…": "...", "×": "x", "–": "-", "—": "-", "‘": "'", "’": "'", "“": '"', "”": '"', "·": "-", "→": "->"}
ANY_TEXT = "avatarctl-any-text"


def write_any_text() -> None:
    """Let stdout and stderr write every text: what their encoding lacks has a plain form, a byte of a file name is itself."""
    codecs.register_error(ANY_TEXT, _in_place_of)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ANY_TEXT)


def plain(text: str) -> str:
    """Return text as stdout's encoding has it, for what a library writes, which knows no plain forms."""
    codecs.register_error(ANY_TEXT, _in_place_of)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, ANY_TEXT).decode(encoding, "surrogateescape")


def _in_place_of(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    if 0xDC80 <= ord(character) <= 0xDCFF:  # a byte of a name that is not text (PEP 383)
        return bytes([ord(character) - 0xDC00]), error.start + 1
    plain = PLAIN.get(character) or character.encode("ascii", "backslashreplace").decode()
    return plain, error.start + 1


def result(command: str, data: Mapping[str, Any], text: str, as_json: bool, status: str = "done") -> None:
    """Write a command's result to stdout: ``text``, or with ``as_json`` one object of a versioned shape."""
    if as_json:
        sys.stdout.write(_object(command, status, 0, data, []) + "\n")
    elif text:
        sys.stdout.write(text + "\n")
    sys.stdout.flush()


def error(problem: AvatarError, command: str = "", as_json: bool = False) -> None:
    """Write message and hint to stderr, and with ``as_json`` the object with the errors to stdout."""
    if as_json:
        error_object(problem, command)
    if _json_lines:
        event("error", message=problem.message, hint=problem.hint, exit_code=problem.exit_code)
        return
    _to_stderr(f"error: {problem.message}")
    if problem.hint:
        _to_stderr(f"hint: {problem.hint}")


def error_object(problem: AvatarError, command: str = "") -> None:
    """Write the object with the errors to stdout, and nothing for people."""
    errors = [{"message": problem.message, "hint": problem.hint}]
    sys.stdout.write(_object(command, "failed", problem.exit_code, problem.data, errors) + "\n")
    sys.stdout.flush()


def trace() -> None:
    """With ``AVATARCTL_DEBUG=1``: write the traceback of the error at hand to stderr."""
    if os.environ.get("AVATARCTL_DEBUG") == "1":
        text = traceback.format_exc()
        event("note", text=text) if _json_lines else _to_stderr(text)


def quiet(on: bool) -> None:
    """With ``--quiet``: no notes from here on, only results and errors."""
    global _quiet
    _quiet = on


def note(text: str) -> None:
    """Write a line for people to stderr, unless it shall be quiet."""
    if _json_lines:
        event("note", text=text)
    elif not _quiet:
        _to_stderr(text)


def can_ask() -> bool:
    """Return whether somebody at a terminal can answer a question."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


# -- Events: with --progress json, stderr is JSON lines and nothing else ------------------------------------------------


def json_lines(on: bool) -> None:
    """From here on write notes, errors and progress as JSON lines, each an object with ``event``."""
    global _json_lines
    _json_lines = on


def events() -> bool:
    """Return whether a program watches."""
    return _json_lines


def event(kind: str, **facts: Any) -> None:
    """Write an event for programs that watch: note, error, progress, item (of a batch), finished; else nothing."""
    if _json_lines:
        _to_stderr(json.dumps({"event": kind, **facts}))


def finished(exit_code: int) -> None:
    """Write the last event: how the command ended."""
    status = "done" if exit_code == 0 else "interrupted" if exit_code > 128 else "failed"
    event("finished", status=status, exit_code=exit_code)


def _to_stderr(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


@contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Show warnings as lines for people, without the place in the source that they come from."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_: note(f"warning: {message}")
        yield


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a plain table, aligned, for stdout."""
    widths = [max(len(str(row[i])) for row in [headers, *rows]) for i in range(len(headers))]
    lines = [
        "  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [headers, *rows]
    ]
    return "\n".join(line.rstrip() for line in lines)


def _object(command: str, status: str, code: int, data: Mapping[str, Any], errors: list[dict[str, str]]) -> str:
    content = {
        "avatarctl_result": RESULT_VERSION,
        "command": command,
        "status": status,
        "exit_code": code,
        "data": data,
        "errors": errors,
    }
    text = jsontext.dumps(content, indent=1, default=str)
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:  # JSON can say everything in ASCII
        text = json.dumps(content, indent=1, default=str)
    return text


class Progress(Protocol):
    """What long work reports while it runs."""

    def __call__(self, done: int, total: int, **facts: Any) -> None:
        """Tell that ``done`` of ``total`` units are done; ``facts`` are further numbers (seconds of video …)."""


@contextmanager
def progress(kind: Literal["auto", "json", "none"], unit: str = "window steps") -> Iterator[Progress]:
    """Show progress on stderr: a bar on a terminal, a line every ten seconds elsewhere, or JSON lines.

    ``unit`` is what is counted: window steps of a render, steps of a training run, clips.
    """
    if kind == "none":
        yield _silent
    elif kind == "json":
        yield partial(_json_line, unit.replace(" ", "_"))
    elif sys.stderr.isatty():
        with _bar(unit) as show:
            yield show
    else:
        yield _Lines(unit, every_s=10.0)


def _silent(done: int, total: int, **facts: Any) -> None:
    """Show nothing."""


def _json_line(unit: str, done: int, total: int, **facts: Any) -> None:
    _to_stderr(json.dumps({"event": "progress", unit: done, "of": total, **facts}))


def _words(facts: Mapping[str, Any], unit: str) -> str:
    parts = []
    if (loss := facts.get("loss")) is not None:
        parts.append(f"loss {loss:.4f}")
    if (step_s := facts.get("step_s")) is not None:
        parts.append(f"{step_s:.2f} s per {unit.removesuffix('s')}")
    if (left_s := facts.get("left_s")) is not None:
        parts.append(f"{clock(left_s)} left")
    if (video_s := facts.get("video_s")) is not None:
        parts.append(f"{clock(video_s)} of video finished")
    return ", ".join(parts)


def clock(seconds: float) -> str:
    """Return a length of time as h:mm:ss or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def size_in_words(count: float) -> str:
    """Return bytes as people read them: 740 kB, 8 MB, 12.3 GB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}" if count < 100 * size else f"{count / size:.0f} {unit}"
    return f"{-(-count // 1000):.0f} kB"


class _Lines:
    """One line at most every so many seconds, for logs."""

    def __init__(self, unit: str, every_s: float) -> None:
        self._unit, self._every_s = unit, every_s
        self._last = 0.0

    def __call__(self, done: int, total: int, **facts: Any) -> None:
        now = time.monotonic()
        if now - self._last >= self._every_s or done == total:
            self._last = now
            note(f"{done}/{total} {self._unit}, {_words(facts, self._unit)}".removesuffix(", "))


@contextmanager
def _bar(unit: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as RichProgress

    columns = (TextColumn(unit), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[words]}"))
    with RichProgress(*columns, console=Console(stderr=True)) as rich_progress:
        task = rich_progress.add_task(unit, total=None, words="")

        def show(done: int, total: int, **facts: Any) -> None:
            rich_progress.update(task, completed=done, total=total, words=_words(facts, unit))

        yield show
