"""A thread that does what it is handed beside other work: in order, a few things waiting at most, its errors raised here."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

import torch


class Abandoned(Exception):
    """The work is of no use any more: the render stops."""


class Beside:
    """A thread with work in order. What goes wrong in it ends it, and is raised by the next call here.

    At most ``waiting`` things wait to be done; who hands over another one waits too.
    """

    def __init__(self, name: str, waiting: int) -> None:
        self._waiting = waiting
        self._lock = threading.Lock()  # who hands over and who looks after errors may be two threads
        self._given: deque[Future[None]] = deque()
        self._over = self._failed = False
        # Sums are rounded in another order with another number of threads, and OpenMP counts them for each thread.
        self._thread = ThreadPoolExecutor(1, name, torch.set_num_threads, (torch.get_num_threads(),))

    def hand(self, work: Callable[[], None]) -> None:
        """Hand over work. Raises what went wrong with earlier work."""
        while True:
            self.check()
            with self._lock:
                if len(self._given) <= self._waiting:
                    self._given.append(self._thread.submit(self._do, work))
                    return
                oldest = self._given[0]
            wait([oldest])

    def check(self) -> None:
        """Raise what went wrong in the thread, if anything did."""
        with self._lock:
            while self._given and self._given[0].done():
                self._given[0].result()  # an error stays in its place: it is raised again by every call
                self._given.popleft()

    def done(self, within_s: float) -> bool:
        """Return whether everything is done, or will be within some seconds. Raises what went wrong."""
        with self._lock:
            given = list(self._given)
        wait(given, within_s)
        self.check()
        with self._lock:
            return not self._given

    def end(self) -> None:
        """End the thread after what it is doing; what waits is dropped. A second Ctrl-C waits for that too."""
        self._over = True
        try:
            self._thread.shutdown(cancel_futures=True)
        except KeyboardInterrupt:
            self._thread.shutdown()  # the folder is held until then: nobody else writes there meanwhile
            raise

    def _do(self, work: Callable[[], None]) -> None:
        if self._over or self._failed:
            raise Abandoned
        self._failed = True
        work()
        self._failed = False
