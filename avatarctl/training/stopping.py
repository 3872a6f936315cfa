"""Save the last finished step at once when somebody asks to stop, also in the middle of a step of minutes.

Launchers kill a worker 30 seconds after Ctrl-C, and Python calls a signal's handler only between two operations of the main
thread, which may sit in one for as long. So a thread of its own hears the signal and saves, while the state stands still:
weights and optimizer change only inside :meth:`Stopping.changing`.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from avatarctl import launcher
from avatarctl.errors import AvatarError, Interrupted, ProcessLost
from avatarctl.interrupts import handling

PASSED_ON_S = 5.0  # a launcher passes on to its workers what the terminal has sent them already
# What a process meets when another one of the run has ended.
LOST = re.compile(r"[Cc]onnection (closed|reset|refused)|[Tt]imed out|NCCL|Broken pipe")
GRACE_S = 5.0  # for the main thread of a launched process to end by itself after the save


class Stopping:
    """Whether somebody asked to stop, by which signal, and what then is saved.

    ``save_now``: writes the last finished step and returns what to say; None where saving needs all processes, which then do it
    together after the step.
    """

    def __init__(self) -> None:
        self.signal = 0
        self.save_now: Callable[[], str] | None = None
        self.hint = "resume with the same command"
        self._said = ""
        self._at = 0.0
        self._changing = threading.Lock()
        self._inside = False  # of a change, in the main thread: the lock may be the watching thread's
        self._over = threading.Event()

    @property
    def asked(self) -> bool:
        """Return whether to stop at the next place where nothing is lost."""
        return self.signal != 0

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Change the state inside; raises ``Interrupted`` instead when the state has been saved for the end.

        Of a change that an error broke off nothing is saved any more: nobody knows what it left.
        """
        with self._changing:
            self.raise_if_saved()
            whole, self._inside = False, True
            try:
                yield
                whole = True
            finally:
                self._inside = False
                if not whole:
                    self.save_now = None

    def raise_if_saved(self) -> None:
        """Raise ``Interrupted`` when a signal was heard and the state is saved."""
        if self._over.is_set():
            raise Interrupted(self._said or "stopped", self.hint, self.signal or signal.SIGINT)

    def wait(self) -> None:
        """Wait for a save that a signal began, and raise ``Interrupted``; returns where none was heard."""
        if self.asked and self.save_now is not None:
            self._over.wait()
            self.raise_if_saved()

    def heard(self, number: int) -> None:
        """Note a signal, in the main thread; where the state stands still, raise ``Interrupted`` once it is saved."""
        now = time.monotonic()
        if self.asked and not (_launched() and now - self._at < PASSED_ON_S):
            raise KeyboardInterrupt
        if not self.asked:
            self.signal, self._at = number, now
        if not self._inside:
            self.wait()

    def save(self, number: int) -> None:
        """Save for the end, in the watching thread, as soon as the state stands still; then end a process that can't."""
        if self.save_now is None:
            return
        with self._changing:
            if self.save_now is None:  # the run ended meanwhile
                return
            try:
                self._said = self.save_now()
            except (AvatarError, OSError, RuntimeError) as error:
                self._said = f"stopped; the last step could not be saved ({getattr(error, 'message', error)})"
            self._over.set()
        if _launched():
            time.sleep(GRACE_S)
            if self._said:
                with suppress(OSError):
                    os.write(2, f"{self._said}; {self.hint}\n".encode())
            os._exit(128 + number)  # the main thread waits for processes that are gone


def _launched() -> bool:
    return launcher.size() > 1


@contextmanager
def stopping() -> Iterator[Stopping]:
    """Watch for Ctrl-C and SIGTERM: the first one saves and stops, the second one stops at once."""
    stop = Stopping()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may watch for signals
        return
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)

    def watch() -> None:
        with ours:
            while heard := ours.recv(1):
                if heard[0] in (signal.SIGINT, signal.SIGTERM):
                    stop.save(heard[0])
                    return

    with handling(stop.heard):
        wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=watch, name="stopping", daemon=True).start()
        try:
            yield stop
        finally:
            signal.set_wakeup_fd(wakeup)
            theirs.close()


@contextmanager
def stopped_by(stop: Stopping) -> Iterator[None]:
    """Turn what follows from processes that were stopped, such as a lost connection, into the stop that it is."""
    try:
        yield
    except RuntimeError as error:
        stop.wait()
        if LOST.search(str(error)):
            raise ProcessLost(
                f"another process of this run ended ({str(error).splitlines()[0][:120]})",
                "see what it says; the same command resumes from the last checkpoint",
            ) from error
        raise
