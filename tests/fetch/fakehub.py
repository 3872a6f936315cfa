"""Test helper: a hub on loopback that speaks the protocol of model hubs as far as downloads need it (from files and faults)."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REPO = "FrancisRing/StableAvatar"
LARGE = 2000  # bytes; above it a file is stored apart, with a SHA-256, behind a redirect


@dataclass
class Fault:
    """What goes wrong, how often (None: always), and for which requests (the end of their path)."""

    kind: str  # a status (429), "cut" in the middle, "wrong" bytes, "ignore-range", "empty", "html", "slow"
    times: int | None = None
    path: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    def meets(self, path: str) -> bool:
        if self.times == 0 or self.path not in path:
            return False
        if self.times is not None:
            self.times -= 1
        return True


class Hub(ThreadingHTTPServer):
    """Serves the files of one repository at one commit, and keeps what it was asked."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = files
        self.faults: list[Fault] = []
        self.asked: list[tuple[str, str, str | None]] = []  # method, path, range
        self.agents: set[str] = set()  # what the client called itself
        self.token: str | None = None  # who doesn't bring it gets 401
        self.stored_with_token = False  # whether the store behind the redirect was shown a token
        self.reached = threading.Event()  # set when a slow answer has sent its first half

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def commit(self) -> str:
        state = json.dumps({path: hashlib.sha1(data).hexdigest() for path, data in sorted(self.files.items())})
        return hashlib.sha1(state.encode()).hexdigest()

    def downloads(self, path: str = "") -> list[tuple[str, str | None]]:
        """Return path and range of every request for bytes."""
        return [(asked, span) for _, asked, span in self.asked if "/resolve/" in asked and asked.endswith(path)]


class Handler(BaseHTTPRequestHandler):
    """Answers model info, file requests, and requests to the store that large files lie in."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *words: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append((self.command, path, self.headers.get("Range")))
        self.server.agents.add(self.headers["User-Agent"])
        # The store has a name of its own, as another host has.
        host = self.headers["Host"].partition(":")[0]
        if host == "localhost":
            self.server.stored_with_token |= "Authorization" in self.headers
            return self.send_file(path.removeprefix("/store/"))
        fault = next((fault for fault in self.server.faults if fault.kind.isdigit() and fault.meets(path)), None)
        if fault:
            return self.send(int(fault.kind), b"{}", fault.headers)
        if any(fault.kind == "html" and fault.meets(path) for fault in self.server.faults):
            return self.send(200, b"<html>please log in to this network</html>", {"Content-Type": "text/html"})
        if self.server.token and self.headers.get("Authorization") != f"Bearer {self.server.token}":
            return self.send(401, b"{}", {"X-Error-Message": "Invalid credentials in Authorization header"})
        if path.startswith(("/nobody/", "/api/models/nobody/")):
            return self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if match := re.fullmatch(r"/api/models/[^/]+/[^/]+/revision/(.+)", path):
            return self.send_info(match[1])
        if match := re.fullmatch(r"/[^/]+/[^/]+/resolve/([^/]+)/(.+)", path):
            if match[1] not in ("main", self.server.commit):
                return self.send(404, b"", {"X-Error-Code": "RevisionNotFound"})
            if match[2] not in self.server.files:
                return self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
            if len(self.server.files[match[2]]) > LARGE:
                store = self.server.url.replace("127.0.0.1", "localhost")
                return self.send(302, b"", {"Location": f"{store}/store/{match[2]}", "X-Repo-Commit": match[1]})
            return self.send_file(match[2])
        return self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def send(self, code: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def send_info(self, revision: str) -> None:
        if revision not in ("main", self.server.commit):
            return self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        siblings = []
        for path, data in self.server.files.items():
            git_id = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
            entry = {"rfilename": path, "size": len(data), "blobId": git_id}
            if len(data) > LARGE:
                entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
            siblings.append(entry)
        info = {"id": REPO, "modelId": REPO, "sha": self.server.commit, "siblings": siblings}
        return self.send(200, json.dumps(info).encode(), {"Content-Type": "application/json"})

    def send_file(self, path: str) -> None:
        data, faults = self.server.files[path], self.server.faults
        fault = next((f.kind for f in faults if not f.kind.isdigit() and f.kind != "html" and f.meets(path)), "")
        if fault == "wrong":
            data = bytes(len(data) - 1) + b"!"
        start, code = 0, 200
        if (span := self.headers.get("Range")) and fault != "ignore-range":
            start, code = int(span.removeprefix("bytes=").removesuffix("-")), 206
            if start >= len(data):
                return self.send(416, b"", {"Content-Range": f"bytes */{len(data)}"})
        if fault == "longer":
            data += b"more"
        body = b"" if fault == "empty" else data[start:]
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        if code == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if fault in ("cut", "slow"):
            self.wfile.write(body[: max(len(body) // 2, 1)])
            self.wfile.flush()
            self.server.reached.set()
            if fault == "slow":
                threading.Event().wait(30)
            self.close_connection = True
            return None
        self.wfile.write(body)
        return None


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Hub]:
    """Serve files until the block ends."""
    hub = Hub(files)
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
