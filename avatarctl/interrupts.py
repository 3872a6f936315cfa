"""Ctrl-C before a command has anything to save: end at once and leave nothing, in the middle of imports too.

An exception raised by a signal can be lost in the middle of an import (some libraries swallow it), and then the program goes
on. So until a command watches for signals itself, the handler undoes what was begun and ends the process.
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
