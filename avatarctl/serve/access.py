"""Decide who may ask: the token, this server's own names, its own pages (Origin), and what browsers may do."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import socket
from collections import Counter
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from avatarctl.serve.answers import error

COOKIE = "avatarctl_session"
SAFE = ("GET", "HEAD", "OPTIONS")
# What the page needs before anybody has said the token: no secrets, nothing of the queue.
OPEN = ("/", "/login", "/health", "/docs", "/openapi.json")
OPEN_BELOW = ("/page/", "/samples/")
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; object-src 'none'; base-uri 'none'; "
        "form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(self)",
}


def session_of(token: str) -> str:
    """Return what a browser's cookie holds: it follows from the token, and the token doesn't follow from it."""
    return hmac.new(token.encode(), b"avatarctl session", hashlib.sha256).hexdigest()


def is_loopback(host: str) -> bool:
    """Return whether an address reaches this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Access:
    """Stands before the application and refuses what may not be asked."""

    def __init__(
        self,
        app: ASGIApp,
        token: str,
        host: str,
        allow_hosts: tuple[str, ...],
        allow_origins: tuple[str, ...],
        counts: Counter[str],
    ) -> None:
        self._app, self._token, self._session, self._counts = app, token.encode(), session_of(token), counts
        own = socket.gethostname().lower()
        self._hosts = {"localhost", host.lower(), own, f"{own}.local", *(name.lower() for name in allow_hosts)}
        self._origins = {origin.rstrip("/").lower() for origin in allow_origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        origin = headers.get("origin", "").rstrip("/").lower()
        allowed = origin if origin in self._origins else ""

        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._counts[str(message["status"])] += 1
                known = {name.lower() for name, _ in message["headers"]}
                more = {**HEADERS, **_cors(allowed)}
                message["headers"] = [
                    *message["headers"],
                    *((k.lower().encode(), v.encode()) for k, v in more.items() if k.lower().encode() not in known),
                ]
            await send(message)

        problem = self._problem(scope, headers, origin, allowed)
        if problem is None and allowed and scope["method"] == "OPTIONS":
            problem = _preflight()
        if problem is not None:
            await problem(scope, receive, dressed)
            return
        await self._app(scope, receive, dressed)

    def _problem(self, scope: Scope, headers: Mapping[str, str], origin: str, allowed: str) -> Any:
        """Return the answer that refuses a request, or None."""
        hosts = [value for name, value in scope["headers"] if name.lower() == b"host"]
        name = _name_of(headers.get("host", ""))
        if len(hosts) > 1 or not self._known(name):
            return error(
                403, f"Host: got '{headers.get('host', '')[:100]}', which is no name of this server",
                "use its address, or start it with --allow-host NAME",
            )  # fmt: skip
        same = origin in ("", f"{scope['scheme']}://{headers.get('host', '')}".lower())
        if scope["method"] not in SAFE and not same and not allowed:
            return error(
                403,
                f"Origin: got '{origin[:100]}', which is another site",
                "start the server with --allow-origin ORIGIN",
            )
        strange = headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate"
        if strange and not allowed:
            return error(403, "got a request of another site's page", "start the server with --allow-origin ORIGIN")
        if self._token and not self._is_open(scope["path"]) and not (scope["method"] == "OPTIONS" and allowed):
            return self._unknown(headers)
        return None

    def _known(self, name: str) -> bool:
        """Return whether a Host is this server. A page of another site reaches it by a name alone, never by an address."""
        if name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    @staticmethod
    def _is_open(path: str) -> bool:
        return path in OPEN or path.startswith(OPEN_BELOW)

    def _unknown(self, headers: Mapping[str, str]) -> Any:
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1"), self._token):
            return None
        if hmac.compare_digest(_cookie(headers.get("cookie", "")).encode("latin-1"), self._session.encode()):
            return None
        return error(
            401, "Authorization: got no token, or another one than this server's",
            "send Authorization: Bearer TOKEN; in a browser, open the page and enter it", headers={"WWW-Authenticate": "Bearer"},
        )  # fmt: skip


def _name_of(host: str) -> str:
    """Return the name or address of a Host header, without its port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _cookie(text: str) -> str:
    try:
        found = SimpleCookie(text).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found is not None else ""


def _cors(allowed: str) -> dict[str, str]:
    if not allowed:
        return {}
    return {"Access-Control-Allow-Origin": allowed, "Vary": "Origin", "Cross-Origin-Resource-Policy": "cross-origin"}


def _preflight() -> Any:
    from starlette.responses import Response

    return Response(
        status_code=204,
        headers={
            "Access-Control-Allow-Methods": "GET, HEAD, POST, DELETE",
            "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, Range",
            "Access-Control-Max-Age": "600",
        },
    )
