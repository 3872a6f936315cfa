"""Tests of what strangers may do: other names and sites, no token, names of paths, too much, too slow, bombs and floods."""

from __future__ import annotations

import io
import socket
import struct
import subprocess
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from PIL import Image
from running import PICTURE, VOICE, Running, error_of, quick, wait_for

Start = Callable[..., Running]
TOKEN = "correct-horse-battery-staple"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7860", "localhost.evil.example", "", "a b", "[::1"])
def test_another_host(desk: Running, host: str) -> None:
    answer = desk.client.get("/v1/videos", headers={"Host": host})
    assert answer.status_code in (400, 403)
    assert "data" not in answer.text or answer.json().get("error")


@pytest.mark.parametrize("host", ["localhost", "localhost:1234", "127.0.0.1:7860", "[::1]:7860", "192.0.2.7"])
def test_own_names(desk: Running, host: str) -> None:
    assert desk.client.get("/v1/videos", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost:1", "https://127.0.0.1", "file://"]
)
def test_another_origin(desk: Running, origin: str) -> None:
    name = desk.create(**quick())["id"]
    for verb, path in (("POST", "/v1/videos"), ("POST", f"/v1/videos/{name}/cancel"), ("DELETE", f"/v1/videos/{name}")):
        error_of(desk.client.request(verb, path, headers={"Origin": origin}), 403)
    answer = desk.client.options("/v1/videos", headers={"Origin": origin, "Access-Control-Request-Method": "POST"})
    assert "access-control-allow-origin" not in answer.headers
    assert "access-control-allow-origin" not in desk.client.get("/v1/videos", headers={"Origin": origin}).headers
    cross = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    error_of(desk.client.get("/v1/events", headers=cross), 403)
    desk.client.delete(f"/v1/videos/{name}", headers={"Origin": desk.address})
    error_of(desk.client.get(f"/v1/videos/{name}"), 404)


def test_a_site_that_was_named_may_ask(own: Start) -> None:
    server = own("--allow-origin", "https://studio.example", "--allow-host", "render.example")
    site = {"Origin": "https://studio.example", "Access-Control-Request-Method": "POST"}
    assert server.client.options("/v1/videos", headers=site).headers["access-control-allow-origin"] == site["Origin"]
    assert server.client.get("/v1/videos", headers={"Host": "render.example"}).status_code == 200
    error_of(server.client.post("/v1/videos", headers={"Origin": "https://studio.example.evil"}), 403)


def test_a_token_is_needed_and_its_cookie_does(own: Start, tmp_path: Path) -> None:
    (tmp_path / "token.txt").write_text(TOKEN + "\n")
    server = own("--host", "0.0.0.0", "--token-file", str(tmp_path / "token.txt"))
    server.client.base_url = server.address.replace("0.0.0.0", "127.0.0.1")
    client = server.client
    for path in ("/v1/videos", "/v1/models", "/metrics", "/about", "/v1/events", "/v1/files/x"):
        assert error_of(client.get(path), 401)["type"] == "authentication_error"
    for given in ("", "Bearer", f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer \xe9"):
        error_of(client.get("/v1/videos", headers=[(b"Authorization", given.encode("latin-1"))]), 401)
    assert client.get("/v1/videos", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    for path in ("/", "/page/app.js", "/health"):
        assert client.get(path).status_code == 200
    error_of(client.post("/login", json={"token": "nonsense"}), 401)
    answer = client.post("/login", json={"token": TOKEN})
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "samesite=strict" in cookie.lower() and TOKEN not in cookie
    assert client.get("/v1/videos").status_code == 200  # by the cookie
    error_of(httpx2.get(f"{str(client.base_url).rstrip('/')}/v1/videos", headers={"Host": "evil.example"}), 403)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--host", "0.0.0.0"), "which others can reach, without a token"),
        (("--host", "::"), "which others can reach, without a token"),
        (("--token", "short"), "expected at least 12"),
        (("--token-file", "nowhere.txt"), "nowhere.txt: got a file that can't be read"),
        (("--jobs", "many"), "--jobs: got 'many'"),
        (("--preset", "pupet"), "did you mean puppet?"),
        (("--allow-origin", "studio"), "--allow-origin: got 'studio'"),
        (("--loras", "nowhere"), "--loras: got no such folder"),
    ],
)
def test_what_a_server_refuses_to_be(home: Path, tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    server = Running(home, tmp_path / "jobs", *words)
    done = subprocess.run(server.argv(), env=server.environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode in (2, 4) and told in done.stderr + done.stdout, done.stderr
    assert "hint" in done.stderr and not (tmp_path / "jobs").exists()


def test_names_never_come_from_the_client(desk: Running, tmp_path: Path) -> None:
    for evil in (
        "../../evil.png",
        "/tmp/evil.png",
        "..\\evil.png",
        "a\0b.png",
        "x" * 5000 + ".png",
        "é\n.png",
        ".png/../x",
    ):
        head = f'--b\r\nContent-Disposition: form-data; name="image"; filename="{evil}"\r\n\r\n'.encode()
        tail = b'\r\n--b\r\nContent-Disposition: form-data; name="audio"; filename="../v.wav"\r\n\r\n'
        rest = b'\r\n--b\r\nContent-Disposition: form-data; name="steps"\r\n\r\n1\r\n--b--\r\n'
        body = head + PICTURE.read_bytes() + tail + VOICE.read_bytes() + rest
        answer = desk.client.post(
            "/v1/videos", content=body, headers={"Content-Type": "multipart/form-data; boundary=b"}
        )
        if answer.status_code == 200:
            names = {path.name for path in (desk.folder / answer.json()["id"]).iterdir()}
            assert not any("evil" in name for name in names) and any(name.startswith("image") for name in names)
            desk.client.delete(f"/v1/videos/{answer.json()['id']}")
        else:
            error_of(answer, 400 if answer.status_code == 400 else 413)
    assert not list(desk.folder.parent.rglob("*evil*")) and not Path("/tmp/evil.png").exists()


def raw(server: Running, text: bytes, wait_s: float = 5) -> bytes:
    """Send bytes as they are; return what comes back until the server closes or is silent."""
    place = urlsplit(server.address)
    with socket.create_connection((place.hostname, place.port), timeout=wait_s) as wire:
        wire.sendall(text)
        found = b""
        try:
            while part := wire.recv(65536):
                found += part
        except TimeoutError:
            pass
        return found


def test_ten_gigabytes_are_refused_before_they_are_sent(desk: Running) -> None:
    head = b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    began = time.monotonic()
    answer = raw(desk, head + b"Content-Length: 10737418240\r\n\r\n--b\r\n", 3)
    assert b"413" in answer.split(b"\r\n")[0] and b"--max-upload" in answer and time.monotonic() - began < 4


def test_a_file_that_hides_its_size_is_cut_off(own: Start) -> None:
    server = own("--max-upload", "1")

    def endless() -> Any:
        yield b'--b\r\nContent-Disposition: form-data; name="audio"; filename="a.wav"\r\n\r\n'
        for _ in range(64):
            yield bytes(1 << 16)

    answer = server.client.post(
        "/v1/videos", content=endless(), headers={"Content-Type": "multipart/form-data; boundary=b"}
    )
    error_of(answer, 413)
    many = {f"f{n}": (f"{n}.wav", b"x") for n in range(9)}
    error_of(server.client.post("/v1/files", files=many), 413)
    error_of(server.client.post("/v1/videos", data={f"s{n}": "1" for n in range(300)}, files={"audio": b"x"}), 413)
    error_of(server.client.post("/v1/videos", data={"prompt": "x" * 100_000}, files={"audio": b"x"}), 413)
    assert not list((server.folder / ".avatarctl-serve" / "spool").iterdir())


def bomb(side: int) -> bytes:
    """Return a PNG of a few kilobytes that says it has side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    content = zlib.compress(bytes(1 << 20), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def test_picture_bombs_cost_nothing(desk: Running) -> None:
    import psutil

    assert desk.process is not None
    before = psutil.Process(desk.process.pid).memory_info().rss
    for side in (100_000, 2**31 - 1, 16_000):
        error_of(desk.client.post("/v1/files", files={"file": ("b.png", bomb(side))}), 400)
    whole = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(whole, "PNG")  # 144 million pixels in 20 kB: allowed, and made small
    answer = desk.client.post("/v1/files", files={"file": ("w.png", whole.getvalue())}, timeout=60)
    assert answer.status_code in (200, 400)
    assert psutil.Process(desk.process.pid).memory_info().rss - before < 200 << 20
    assert desk.client.get("/health").status_code == 200


def test_clients_that_vanish_leave_nothing(desk: Running) -> None:
    spool = desk.folder / ".avatarctl-serve" / "spool"
    head = b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    part = b'--b\r\nContent-Disposition: form-data; name="audio"; filename="a.wav"\r\n\r\n'
    place = urlsplit(desk.address)
    with socket.create_connection((place.hostname, place.port)) as wire:
        wire.sendall(head + b"Content-Length: 1000000\r\n\r\n" + part + bytes(5000))
        wait_for(lambda: list(spool.glob("*.part")), 10)
    wait_for(lambda: not list(spool.glob("*.part")), 10)


@pytest.mark.long
def test_slow_clients_are_dropped_and_hinder_nobody(desk: Running) -> None:
    place = urlsplit(desk.address)
    wires = []
    for text in (b"GET /v1/videos HT", b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; "
                 b"boundary=b\r\nContent-Length: 100000\r\n\r\n--b\r\n", b"") * 20:  # fmt: skip
        wire = socket.create_connection((place.hostname, place.port), timeout=50)
        wire.sendall(text)
        wires.append(wire)
    assert desk.client.get("/v1/videos").elapsed.total_seconds() < 1
    for wire in wires:
        while wire.recv(65536):  # until the server closes it
            pass
        wire.close()


def test_floods_of_event_streams_are_bounded(own: Start) -> None:
    server = own()
    name = server.create(**quick(seconds="3", steps="6"))["id"]
    streams = []
    codes = []
    client = httpx2.Client(base_url=server.address, timeout=20, limits=httpx2.Limits(max_connections=200))
    for _ in range(100):
        stream = client.stream("GET", "/v1/events")
        answer = stream.__enter__()
        streams.append(stream)
        codes.append(answer.status_code)
    assert codes.count(200) == 64 and codes.count(429) == 36
    assert server.get(name)["id"] == name
    server.until(name, "completed")
    for stream in streams:
        stream.__exit__(None, None, None)
    client.close()
    wait_for(lambda: "avatarctl_event_streams 0" in server.client.get("/metrics").text, 20)
    with server.client.stream("GET", "/v1/events") as again:
        assert again.status_code == 200


def test_answers_tell_browsers_what_they_may(desk: Running) -> None:
    for path in ("/", "/docs", "/v1/videos", "/nowhere"):
        headers = desk.client.get(path).headers
        assert "default-src 'self'" in headers["content-security-policy"] and headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff" and "server" not in headers
    page = Path(__file__).parents[2] / "avatarctl" / "serve" / "page"
    for file in page.iterdir():
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text and "https://" not in text and "//cdn" not in text, file
