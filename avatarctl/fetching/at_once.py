"""Do several pieces of work at once in threads that end with the program; results come as each is done."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
WAIT_S = 0.2  # between looks at signals


class Stopped(Exception):
    """What work raises when another piece of it failed, or nobody waits for it any more."""


class Work(Generic[Item, Result]):
    """Pieces of work on ``count`` threads. ``stopped`` is set when one fails or the results aren't taken any more."""

    def __init__(self, items: Sequence[Item], do: Callable[[Item, threading.Event], Result], count: int) -> None:
        self.stopped = threading.Event()
        self._do, self._items = do, items
        self._waiting: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[Item, Result | None, BaseException | None]] = queue.SimpleQueue()
        for item in items:
            self._waiting.put(item)
        self._count = min(count, len(items))

    def results(self) -> Iterator[tuple[Item, Result]]:
        """Return (item, result) as each is done; what the first that failed raised is raised here, and the rest is stopped.

        Threads that wait for the network when this is left aren't waited for.
        """
        for _ in range(self._count):
            threading.Thread(target=self._run, name="fetch", daemon=True).start()
        try:
            for _ in self._items:
                item, result, error = self._next()
                if error is not None:
                    raise error
                yield item, result  # type: ignore[misc]
        finally:
            self.stopped.set()

    def _next(self) -> tuple[Item, Result | None, BaseException | None]:
        while True:
            try:
                return self._done.get(timeout=WAIT_S)
            except queue.Empty:
                continue

    def _run(self) -> None:
        while not self.stopped.is_set():
            try:
                item = self._waiting.get_nowait()
            except queue.Empty:
                return
            with _HandedOver(self._done, item):
                self._done.put((item, self._do(item, self.stopped), None))


class _HandedOver:
    """Hand over whatever a piece of work raises to where results are taken."""

    def __init__(self, done: queue.SimpleQueue[Any], item: Any) -> None:
        self._done, self._item = done, item

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is not None and not isinstance(error, Stopped):
            self._done.put((self._item, None, error))
        return error is not None
