"""Write checkpoints beside sampling: a thread saves the windows in flight as they were, while the next window steps run.

A window after a step never changes (a step makes a new one), so what is written is the list of windows as it was, without a
copy of their tensors, and neither the order of the steps nor a bit depends on when it is written. At most one is being
written: while it is, none is due, so that a slow disk makes checkpoints seldomer and never a queue of them. Nor are they due
so often that writing them takes more than a twentieth of the time. With ``every_s`` 0 each window step is saved before the
next one begins, whatever it costs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType

from avatarctl.render import frontier
from avatarctl.render.folder import RenderFolder
from avatarctl.sampling.denoise import InFlight

SHARE = 20  # writing may take a twentieth of the time


class Checkpoints:
    """The checkpoints of a render. Inside ``with``: on the way out, whatever happened, the last one is written whole."""

    def __init__(self, folder: RenderFolder, every_s: float) -> None:
        self._folder, self._every_s = folder, every_s
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[float] | None = None
        self._saved_at, self._cost_s = time.monotonic(), 0.0

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._writing is not None:
            try:
                wait([self._writing])
            except KeyboardInterrupt:
                wait([self._writing])  # the folder is held until it is written: nobody else writes there meanwhile
                raise
        self._thread.shutdown()
        if kind is None:
            self._settle()

    def due(self) -> bool:
        """Return whether it is time for one; raises the error of the last one, such as a full disk."""
        if self._writing is not None and not self._writing.done():
            return False
        self._settle()
        return not self._every_s or time.monotonic() - self._saved_at >= max(self._every_s, SHARE * self._cost_s)

    def save(self, windows: Mapping[int, InFlight], first: int, steps_done: int, now: bool = False) -> None:
        """Begin to save the windows in flight; ``now``: return when they are saved. Raises the error of the last one."""
        self._settle()
        self._saved_at = time.monotonic()
        snapshot = frontier.Frontier(dict(windows), first)
        self._writing = self._thread.submit(self._write, snapshot, steps_done)
        if now or not self._every_s:
            self._settle()

    def _write(self, snapshot: frontier.Frontier, steps_done: int) -> float:
        began = time.monotonic()
        frontier.save(self._folder, snapshot)
        self._folder.event("checkpoint", window_steps=steps_done)
        return time.monotonic() - began

    def _settle(self) -> None:
        """Wait until nothing is being written; raises what went wrong."""
        if self._writing is not None:
            written, self._writing = self._writing, None
            try:
                self._cost_s = written.result()
            except KeyboardInterrupt:
                self._writing = written  # which still writes
                raise
