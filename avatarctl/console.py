"""Print results, notes and errors for people and scripts."""

from __future__ import annotations

import codecs
import io
import json
import os
import re
import shutil
import sys
import textwrap
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from avatarctl import jsontext
from avatarctl.errors import AvatarError

RESULT_VERSION = 1
_quiet = False
_events: TextIO | None = None  # the real stderr, while it holds JSON lines alone
RED, CYAN, GREEN, YELLOW = "\x1b[1;31m", "\x1b[36m", "\x1b[32m", "\x1b[33m"
LEAST = 24  # columns that a wrapped column has at least
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
    if _events is not None:
        event("error", message=problem.message, hint=problem.hint, exit_code=problem.exit_code)
        return
    _to_stderr(_labelled("error", RED, problem.message))
    if problem.hint:
        _to_stderr(_labelled("hint", CYAN, problem.hint))


def _labelled(label: str, colour: str, text: str) -> str:
    """Return a message behind its label: on a terminal coloured, and wrapped at words."""
    lines = _wrapped(f"{label}: {text}")
    if sys.stderr.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb":
        return lines.replace(f"{label}:", f"{colour}{label}:\x1b[0m", 1)
    return lines


def _wrapped(text: str) -> str:
    """Return a text wrapped at words to a terminal's width, long paths whole; elsewhere as it is."""
    if not sys.stderr.isatty():
        return text
    width = shutil.get_terminal_size().columns
    lines = []
    for line in text.split("\n"):
        indent = " " * (len(line) - len(line.lstrip()))
        lines += textwrap.wrap(
            line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False, drop_whitespace=True
        ) or [""]
    return "\n".join(lines)


def error_object(problem: AvatarError, command: str = "") -> None:
    """Write the object with the errors to stdout, and nothing for people."""
    errors = [{"message": problem.message, "hint": problem.hint}]
    sys.stdout.write(_object(command, "failed", problem.exit_code, problem.data, errors) + "\n")
    sys.stdout.flush()


def trace() -> None:
    """With ``AVATARCTL_DEBUG=1``: write the traceback of the error at hand to stderr."""
    if os.environ.get("AVATARCTL_DEBUG") == "1":
        text = traceback.format_exc()
        event("note", text=text) if _events is not None else _to_stderr(text)


def quiet(on: bool) -> None:
    """With ``--quiet``: no notes from here on, only results and errors."""
    global _quiet
    _quiet = on


def note(text: str) -> None:
    """Write a line for people to stderr, unless it shall be quiet."""
    if _events is not None:
        event("note", text=text)
    elif not _quiet:
        _to_stderr(_wrapped(text))


def can_ask() -> bool:
    """Return whether somebody at a terminal can answer a question."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


# -- Events: with --progress json, stderr is JSON lines and nothing else ------------------------------------------------


def json_lines(on: bool) -> None:
    """From here on write notes, errors, progress and what libraries write as JSON lines, each an object with ``event``."""
    global _events
    if on and _events is None:
        _events = sys.stderr
        sys.stderr = _Loose()
    elif not on and _events is not None:
        sys.stderr.flush()
        sys.stderr, _events = _events, None


def events() -> bool:
    """Return whether a program watches."""
    return _events is not None


def event(kind: str, **facts: Any) -> None:
    """Write an event for programs that watch: note, error, stage, progress, item (of a batch), finished; else nothing."""
    if _events is not None:
        write_event(kind, facts)


def write_event(kind: str, facts: Mapping[str, Any]) -> None:
    stream = _events or sys.stderr
    stream.write(json.dumps({"event": kind, **facts}, default=str) + "\n")
    stream.flush()


def finished(exit_code: int) -> None:
    """Write the last event: how the command ended."""
    if _events is not None:
        sys.stderr.flush()
    status = "done" if exit_code == 0 else "interrupted" if exit_code > 128 else "failed"
    event("finished", status=status, exit_code=exit_code)


class _Loose(io.TextIOBase):
    """What libraries write to stderr, line by line as events of their own."""

    def __init__(self) -> None:
        self._line = ""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        assert _events is not None
        return _events.fileno()

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._say(line)
        return len(text)

    def flush(self) -> None:
        line, self._line = self._line, ""
        self._say(line)

    @staticmethod
    def _say(line: str) -> None:
        if line.strip() and _events is not None:
            event("note", text=line.rstrip())


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
    """Return a plain table, aligned, for stdout; on a terminal the last column is wrapped at words to what is left of it."""
    widths = [max(len(str(row[i])) for row in [headers, *rows]) for i in range(len(headers))]
    before = sum(widths[:-1]) + 2 * (len(widths) - 1)
    left = shutil.get_terminal_size().columns - before if sys.stdout.isatty() else 0
    lines = []
    for row in [headers, *rows]:
        cells = [str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)]
        pieces = [cells[-1]]
        if LEAST <= left < widths[-1]:
            pieces = textwrap.wrap(str(row[-1]), left, break_long_words=False, break_on_hyphens=False) or [""]
        lines += ["  ".join([*cells[:-1], pieces[0]]), *(" " * before + piece for piece in pieces[1:])]
    return "\n".join(line.rstrip() for line in lines)


def one_terminal() -> bool:
    """Return whether results and errors are read at the same place."""
    return sys.stdout.isatty() and sys.stderr.isatty()


def painted(text: str) -> str:
    """Return a table whose lines begin with ok, warn or fail, on a terminal with these words in colour."""
    if not sys.stdout.isatty() or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb":
        return text
    colours = {"ok": GREEN, "warn": YELLOW, "fail": RED}
    return re.sub(r"(?m)^(ok|warn|fail)\b", lambda found: f"{colours[found[0]]}{found[0]}\x1b[0m", text)


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


def size(count: float) -> str:
    """Return bytes as people read them: 911 MB, 11.4 GB."""
    for unit, bytes_ in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= bytes_:
            return f"{count / bytes_:.1f} {unit}" if count < 100 * bytes_ else f"{count / bytes_:.0f} {unit}"
    return f"{count:.0f} bytes"


def clock(seconds: float) -> str:
    """Return a length of time as h:mm:ss or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
