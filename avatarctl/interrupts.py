"""Ctrl-C and SIGTERM: what has nothing to save ends at once and leaves nothing, long work stops where nothing is lost.

An exception raised by a signal can be lost in the middle of an import (some libraries swallow it), and then the program goes
on. So until a command watches for signals itself (:func:`stopping`), the handler undoes what was begun and ends the process.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_undo: list[Callable[[], None]] = []


def end_at_once() -> None:
    """Let Ctrl-C end this process at once, with exit code 130 and what was begun undone."""
    if _is_main() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def raise_again() -> None:
    """Let Ctrl-C raise ``KeyboardInterrupt`` again, for commands that clean up as exceptions pass through them."""
    if _is_main() and signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class Stop:
    """Whether somebody asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal = 0

    @property
    def asked(self) -> bool:
        """Return whether to stop at the next place where nothing is lost."""
        return self.signal != 0


@contextmanager
def handling(heard: Callable[[int], None]) -> Iterator[None]:
    """Call ``heard`` with the number of each Ctrl-C or SIGTERM inside; afterwards signals do what they did before.

    Nothing is called in a thread other than the main one, which alone may watch for signals.
    """
    if not _is_main():
        yield
        return

    def handler(number: int, _: FrameType | None) -> None:
        heard(number)

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, known in before.items():
            signal.signal(number, known)


@contextmanager
def stopping(tell: Callable[[], None] = lambda: None) -> Iterator[Stop]:
    """Note the first Ctrl-C or SIGTERM, for the work inside to stop by itself; the second one raises ``KeyboardInterrupt``.

    ``tell`` is called at the first one.
    """
    stop = Stop()

    def heard(number: int) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.signal = number
        tell()

    with handling(heard):
        yield stop


@contextmanager
def undoing(undo: Callable[[], None]) -> Iterator[None]:
    """Undo what was begun when Ctrl-C ends the process inside, or raises ``KeyboardInterrupt``."""
    _undo.append(undo)
    try:
        yield
    except KeyboardInterrupt:
        undo()
        raise
    finally:
        _undo.remove(undo)


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()


def _end(number: int, _: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)
    for undo in reversed(_undo):
        with suppress(OSError):
            undo()
    with suppress(OSError):
        os.write(2, b"interrupted; nothing was begun\n")
    os._exit(128 + number)
