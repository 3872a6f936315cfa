"""Put a server together and run it: application, supervisor, the connection's own time limits, an orderly end."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from avatarctl import __version__, console, interrupts
from avatarctl.errors import AvatarError, UsageError
from avatarctl.serve import answers, api_events, api_server, api_videos
from avatarctl.serve.access import Access
from avatarctl.serve.house import House
from avatarctl.serve.streams import News, Streams

UNREAD_S = 600.0  # a paused player stops reading, and asks again later
HEAD_S = 20.0  # a client has so long to say what it wants
MOST_CONNECTIONS = 1000
MOST_LOOKING = 3  # requests whose files are looked at, at once


def application(house: House) -> FastAPI:
    """Return the application of a house."""
    news, streams = News(), Streams()
    counts: Counter[str] = Counter()

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        news.begin()
        house.queue.watch(news.tell)
        yield
        streams.closing = True

    app = FastAPI(
        title="avatarctl",
        version=__version__,
        description="Videos of a person speaking, from one picture and a recording. In the shape of /v1/videos.",
        lifespan=life,
        docs_url=None,
        redoc_url=None,
    )
    app.state.looking = asyncio.Semaphore(MOST_LOOKING)
    app.state.house, app.state.news, app.state.streams, app.state.counts = house, news, streams, counts
    for part in (api_videos, api_events, api_server):
        app.include_router(part.router)
    answers.install(app)
    serving = house.serving
    app.add_middleware(
        Access,
        token=serving.token,
        host=serving.host,
        allow_hosts=serving.allow_hosts,
        allow_origins=serving.allow_origins,
        counts=counts,
    )
    return app


class Protocol(H11Protocol):
    """A connection whose client has to say what it wants within a time, and to read what it gets."""

    _stuck: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to count."""
        super().connection_made(transport)
        self._asked = self.loop.call_later(HEAD_S, self._too_late)

    def data_received(self, data: bytes) -> None:
        """Count anew once a request is complete."""
        waiting = self.cycle is None or self.cycle.response_complete
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._asked.cancel()
        elif waiting and self._asked.cancelled():
            self._asked = self.loop.call_later(HEAD_S, self._too_late)

    def pause_writing(self) -> None:
        """Begin to wait for a client that doesn't read what it asked for."""
        super().pause_writing()
        self._stuck = self.loop.call_later(UNREAD_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop waiting: it reads."""
        self._unstick()
        super().resume_writing()

    def _unstick(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop counting."""
        self._asked.cancel()
        self._unstick()
        super().connection_lost(exc)

    def _too_late(self) -> None:
        if not self.transport.is_closing() and (self.cycle is None or self.cycle.response_complete):
            self.transport.close()


def run(house: House, wire: socket.socket, told: Callable[[str], None]) -> None:
    """Serve until Ctrl-C or SIGTERM; then workers save what they have. Calls ``told`` with the address once it can be reached."""
    serving = house.serving
    config = uvicorn.Config(
        application(house),
        host=serving.host,
        port=serving.port,
        http=Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=3,
        h11_max_incomplete_event_size=32 << 10,
    )
    server = _Server(config, told)
    house.supervisor.after.append(lambda: setattr(server, "should_exit", True))
    house.supervisor.start()
    try:
        server.run([wire])
    finally:
        house.supervisor.stop()
        if house.supervisor.is_alive():
            console.note("stopping: the workers save what they have (once more: stop at once)")
        house.supervisor.join()
        house.checker.close()
    if not house.supervisor.ended_well:
        raise AvatarError("the thread that makes the videos ended", "run it again with AVATARCTL_DEBUG=1 and report it")


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens; raises ``UsageError`` where that can't be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host.strip("[]"), port), family=family, backlog=512)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UsageError(
                f"--port: {host}:{port} is in use by another program",
                "choose another one, or --port 0 for any that is free",
            ) from error
        raise UsageError(
            f"--host: can't listen at {host}:{port} ({error.strerror or error})",
            "leave it out, or name an address of this machine",
        ) from error


class _Server(uvicorn.Server):
    """A server that says when it can be reached, and ends event streams when it stops."""

    def __init__(self, config: uvicorn.Config, told: Callable[[str], None]) -> None:
        super().__init__(config)
        self._tell = told

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at Ctrl-C and SIGTERM; neither is raised again afterwards: workers have to save what they have."""
        with interrupts.handling(lambda number: self.handle_exit(number, None)):
            yield

    async def startup(self, sockets: Any = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        if self.started and sockets:
            port = sockets[0].getsockname()[1]
            host = self.config.host
            self._tell(f"http://{f'[{host}]' if ':' in host else host}:{port}")

    async def shutdown(self, sockets: Any = None) -> None:
        """Stop listening; whoever listens to events is sent home first."""
        state = self.config.app.state  # type: ignore[union-attr]
        state.streams.closing = True
        state.news.tell()
        await asyncio.sleep(0.1)
        await super().shutdown(sockets)
