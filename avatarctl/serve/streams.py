"""Send events as they happen (Server-Sent Events) to a bounded number of clients, and drop those that don't read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from avatarctl.serve.answers import Refused

MOST = 64  # streams at once
BEAT_S, PATIENCE_S = 15.0, 30.0


class News:
    """Wakes whoever waits for a change; changes come from any thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._event = asyncio.Event()
        self._told = False

    def begin(self) -> None:
        """Belong to the loop that runs now."""
        self._loop = asyncio.get_running_loop()

    def tell(self) -> None:
        """Say that something changed."""
        if self._loop is not None and not self._loop.is_closed() and not self._told:
            self._told = True
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._told = False
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def wait(self, seconds: float) -> bool:
        """Wait for a change; return whether there was one."""
        try:
            await asyncio.wait_for(self._event.wait(), seconds)
        except TimeoutError:
            return False
        return True


class Streams:
    """Counts the streams that are open."""

    def __init__(self) -> None:
        self.open = 0
        self.closing = False

    def answer(self, events: Callable[[], AsyncIterator[str]]) -> EventStream:
        """Return the answer that sends events; raises ``Refused`` when too many listen already."""
        if self.open >= MOST:
            raise Refused(
                429,
                f"got {MOST} event streams already",
                "close one, or ask for the status now and then",
                {"Retry-After": "5"},
            )
        return EventStream(self, events)


class EventStream(Response):
    """An answer that sends events until the client goes away or reads no more."""

    media_type = "text/event-stream"

    def __init__(self, streams: Streams, events: Callable[[], AsyncIterator[str]]) -> None:
        self._streams, self._events = streams, events
        super().__init__(None, 200, {"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Send events."""
        self._streams.open += 1
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            gone = asyncio.create_task(_gone(receive))
            source = self._events()
            try:
                while not gone.done():
                    step = asyncio.ensure_future(anext(source, None))
                    await asyncio.wait({step, gone}, return_when=asyncio.FIRST_COMPLETED)
                    if not step.done():
                        step.cancel()
                        break
                    text = step.result()
                    if text is None:
                        break
                    message = {"type": "http.response.body", "body": text.encode(), "more_body": True}
                    await asyncio.wait_for(send(message), PATIENCE_S)  # a client that doesn't read is dropped
                await asyncio.wait_for(send({"type": "http.response.body", "body": b""}), PATIENCE_S)
            finally:
                gone.cancel()
        except (TimeoutError, OSError):
            return
        finally:
            self._streams.open -= 1


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def as_event(data: Any, kind: str = "", number: int | None = None) -> str:
    """Return an event in the form of the stream."""
    return in_event(json.dumps(data), kind, number)


def in_event(line: str, kind: str = "", number: int | None = None) -> str:
    """Return an event that holds a line of JSON."""
    head = ("" if number is None else f"id: {number}\n") + (f"event: {kind}\n" if kind else "")
    return f"{head}data: {line}\n\n"
