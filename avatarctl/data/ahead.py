"""Run an iterator in a thread, some items ahead: decoding goes on while the networks compute."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
WAIT_S = 0.2


def ahead(items: Iterator[Item], count: int) -> Generator[Item, None, None]:
    """Return the items of an iterator that runs in a thread, at most ``count`` items ahead; what it raises is raised here.

    Closing it ends the thread, and the iterator with it.
    """
    waiting: queue.Queue[tuple[str, Item | BaseException | None]] = queue.Queue(count)
    ended = threading.Event()

    def put(kind: str, item: Item | BaseException | None) -> bool:
        while not ended.is_set():
            try:
                waiting.put((kind, item), timeout=WAIT_S)
            except queue.Full:
                continue
            return True
        return False

    def run() -> None:
        try:
            for item in items:
                if not put("item", item):
                    return
            put("end", None)
        except BaseException as error:  # noqa: BLE001 (it is raised where the items are taken)
            put("error", error)
        finally:
            if isinstance(items, Generator):
                items.close()

    thread = threading.Thread(target=run, name="decoding", daemon=True)
    thread.start()
    try:
        while True:
            kind, item = waiting.get()
            if kind == "item":
                yield item  # type: ignore[misc]
                continue
            if kind == "error":
                assert isinstance(item, BaseException)
                raise item
            return
    finally:
        ended.set()
        thread.join()


def batched(items: Iterator[Item], count: int) -> Iterator[list[Item]]:
    """Return items in lists of ``count``, the last one shorter."""
    while batch := list(islice(items, count)):
        yield batch
