"""Run an iterator in a thread, some items ahead: decoding goes on while the networks compute."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")


def ahead(items: Iterator[Item], count: int) -> Generator[Item, None, None]:
    """Return the items of an iterator that runs in a thread, at most ``count`` items ahead; what it raises is raised here.

    Closing it ends the thread, and the iterator with it.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="decoding") as thread:
        waiting: deque[Future[list[Item]]] = deque(thread.submit(_next, items) for _ in range(count))
        try:
            while found := waiting.popleft().result():
                waiting.append(thread.submit(_next, items))
                yield found[0]
        finally:
            for each in waiting:
                each.cancel()
            if isinstance(items, Generator):
                thread.submit(items.close).result()  # where it runs: a generator can't be closed from beside


def _next(items: Iterator[Item]) -> list[Item]:
    """Return the next item, or nothing at the end."""
    return list(islice(items, 1))


def batched(items: Iterator[Item], count: int) -> Iterator[list[Item]]:
    """Return items in lists of ``count``, the last one shorter."""
    while batch := list(islice(items, count)):
        yield batch
