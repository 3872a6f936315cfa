"""Read the body of a request: fields and files of a form, or JSON; files go straight to the spool, slow clients are dropped."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from avatarctl.serve.answers import Refused
from avatarctl.serve.requests import IMAGES, SOUNDS
from avatarctl.serve.spool import MIB, Spool, Writer

IDLE_S = 30.0  # a client that sends nothing for so long is dropped
LEAST_BYTES_S = 2_000  # and one that is slower than this over a minute
GRACE_S = 60.0
MOST_FIELDS, MOST_FIELD_BYTES, MOST_HEADER_BYTES = 200, 64 << 10, 8 << 10
MOST_FILES = 4
MOST_JSON_BYTES = 96 << 20  # pictures and voices as data URLs, a third larger than their files
MOST_HELD_BYTES = 4 * MOST_JSON_BYTES  # of values in memory, of all requests together
WRAPPED = ("image_url", "audio_url", "file_id")  # clients of this shape put what they refer to into such an object
DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?((?:;[\w.+-]+=[^;,]*)*);base64,", re.ASCII)


@dataclass
class Part:
    """A file that came with a request."""

    field: str
    filename: str
    content_type: str
    writer: Writer


@dataclass
class Body:
    """What a request says: ``values`` by name, and ``files`` by the name of their field."""

    values: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Part] = field(default_factory=dict)
    held: int = 0
    """Bytes of values in memory."""

    def hold(self, count: int, what: str) -> None:
        """Take so many bytes of values into memory, which is bounded for one request and for all of them."""
        self.held += count
        _held.bytes += count
        if self.held > MOST_JSON_BYTES:
            raise Refused(413, f"{what}: got more than {MOST_JSON_BYTES // MIB} MiB", "send files as a form")
        if _held.bytes > MOST_HELD_BYTES:
            raise Refused(429, "got too much at once from all clients", "send files as a form", {"Retry-After": "5"})

    def drop(self) -> None:
        """Remove the files that were not kept."""
        for part in self.files.values():
            part.writer.drop()
        _held.bytes -= self.held
        self.held = 0


class _Held:
    """Counts the bytes of values in memory, of all requests; they are read in one thread."""

    bytes = 0


_held = _Held()


@asynccontextmanager
async def reading(request: Request, spool: Spool) -> AsyncIterator[Body]:
    """Read a request's body; files that nobody keeps are removed in the end, also of a client that vanishes."""
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    announced = _announced(request)
    body = Body()
    with spool.expecting(announced):
        try:
            with _well_formed():
                if kind == b"multipart/form-data":
                    await _read_form(request, options.get(b"boundary", b""), body, spool)
                elif kind == b"application/x-www-form-urlencoded":
                    await _read_query(request, body, spool)
                elif kind == b"application/json" or (kind == b"" and announced):
                    await _read_json(request, body, spool)
                elif announced or kind:
                    raise Refused(
                        415,
                        f"got a body of the type {kind.decode('latin-1')!r}, expected multipart/form-data or application/json",
                        "curl -F image=@me.jpg -F audio=@speech.mp3 sends a form",
                    )
            for part in body.files.values():
                await asyncio.to_thread(part.writer.close)
            yield body
        finally:
            body.drop()


def _announced(request: Request) -> int:
    text = request.headers.get("content-length", "0")
    return int(text) if text.isdecimal() else 0


@contextmanager
def _well_formed() -> Any:
    try:
        yield
    except (FormParserError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise Refused(400, f"got a body that can't be read ({error})", "send a form, or one JSON object") from error


async def chunks(request: Request) -> AsyncIterator[bytes]:
    """Yield the body as it comes; raises ``Refused`` for a client that is idle or too slow, or goes away."""
    began, count = time.monotonic(), 0
    while True:
        try:
            message = await asyncio.wait_for(request.receive(), IDLE_S)
        except TimeoutError as error:
            raise Refused(408, f"got nothing for {IDLE_S:.0f} seconds, expected the rest of the request") from error
        if message["type"] == "http.disconnect":
            raise Refused(400, "the client went away in the middle of its request")
        data = message.get("body", b"")
        count += len(data)
        took = time.monotonic() - began
        if took > GRACE_S and count < LEAST_BYTES_S * took:
            raise Refused(408, f"got {count} bytes in {took:.0f} seconds, expected a faster client")
        if data:
            yield data
        if not message.get("more_body", False):
            return


# -- Forms --------------------------------------------------------------------------------------------------------------


class _Form:
    """Takes in the events of the parser of a form."""

    def __init__(self, body: Body, spool: Spool) -> None:
        self._body, self._spool = body, spool
        self._header, self._value = bytearray(), bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._name, self._field, self._part = "", bytearray(), None

    _part: Part | None
    complete = False

    def begin(self) -> None:
        self._headers, self._name, self._field, self._part = {}, "", bytearray(), None
        if len(self._body.values) + len(self._body.files) >= MOST_FIELDS:
            raise Refused(413, f"got more than {MOST_FIELDS} fields")

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]
        self._bounded(self._header)

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._bounded(self._value)

    @staticmethod
    def _bounded(data: bytearray) -> None:
        if len(data) > MOST_HEADER_BYTES:
            raise Refused(413, f"got a header of a field of more than {MOST_HEADER_BYTES} bytes")

    def header_end(self) -> None:
        self._headers[bytes(self._header).lower()] = bytes(self._value)
        self._header, self._value = bytearray(), bytearray()

    def headers_finished(self) -> None:
        kind, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._name = options.get(b"name", b"").decode("utf-8")
        if kind != b"form-data" or not self._name:
            raise Refused(400, "got a part of a form without a name")
        if self._name in self._body.files or self._name in self._body.values:
            raise Refused(400, f"{self._name}: got it twice in one form, expected it once", "leave out one of them")
        if b"filename" in options:
            if len(self._body.files) >= MOST_FILES:
                raise Refused(413, f"got more than {MOST_FILES} files")
            filename = options[b"filename"].decode("utf-8", "replace")
            content_type = self._headers.get(b"content-type", b"").decode("latin-1")
            self._part = Part(self._name, filename, content_type, self._spool.begin())
            self._body.files[self._name] = self._part

    def data(self, data: bytes, start: int, end: int) -> None:
        if self._part is not None:
            self._part.writer.write(data[start:end])
            return
        self._field += data[start:end]
        self._body.hold(end - start, self._name)
        if len(self._field) > MOST_FIELD_BYTES and self._name not in (*IMAGES, *SOUNDS):
            raise Refused(413, f"{self._name}: got a field of more than {MOST_FIELD_BYTES} bytes")

    def part_end(self) -> None:
        if self._part is None:
            self._body.values[self._name] = self._field.decode("utf-8")

    def end(self) -> None:
        self.complete = True


async def _read_form(request: Request, boundary: bytes, body: Body, spool: Spool) -> None:
    if not boundary:
        raise Refused(400, "got a form without a boundary", "let the client's library write the Content-Type")
    form = _Form(body, spool)
    parser = MultipartParser(
        boundary,
        {
            "on_part_begin": form.begin,
            "on_part_data": form.data,
            "on_part_end": form.part_end,
            "on_header_field": form.header_field,
            "on_header_value": form.header_value,
            "on_header_end": form.header_end,
            "on_headers_finished": form.headers_finished,
            "on_end": form.end,
        },
    )
    async for data in chunks(request):
        parser.write(data)
    parser.finalize()
    if not form.complete:
        raise Refused(400, "got a form that is cut off", "send it again")
    _take_out(body, spool)


async def _read_query(request: Request, body: Body, spool: Spool) -> None:
    text = bytearray()
    async for data in chunks(request):
        text += data
        body.hold(len(data), "the body")
        if len(text) > MOST_FIELDS * MOST_FIELD_BYTES:
            raise Refused(413, "got a body that is too large for a form without files")
    for name, value in parse_qsl(text.decode("utf-8"), keep_blank_values=True, max_num_fields=MOST_FIELDS):
        if name in body.values:
            raise Refused(400, f"{name}: got it twice in one form, expected it once", "leave out one of them")
        body.values[name] = value
    _take_out(body, spool)


async def _read_json(request: Request, body: Body, spool: Spool) -> None:
    text = bytearray()
    async for data in chunks(request):
        text += data
        body.hold(len(data), "the JSON")
    content = await asyncio.to_thread(json.loads, text.decode("utf-8")) if text else {}
    if not isinstance(content, dict):
        raise Refused(400, f"got JSON of the kind {type(content).__name__}, expected one object")
    body.values.update(content)
    _take_out(body, spool)


def _take_out(body: Body, spool: Spool) -> None:
    """Turn values that are data URLs into files."""
    for name, value in list(body.values.items()):
        if name not in (*IMAGES, *SOUNDS):
            continue
        body.values[name] = value = _unwrapped(value)
        if not isinstance(value, str) or not value.startswith("data:"):
            continue
        found = DATA_URL.match(value[:1000])
        if found is None:
            raise Refused(400, f"{name}: got a data URL of an unknown form, expected data:TYPE;base64,…")
        try:
            content = base64.b64decode(value[found.end() :], validate=True)
        except (binascii.Error, ValueError) as error:
            raise Refused(400, f"{name}: got broken base64 ({error})", "encode the whole file") from error
        writer = spool.begin()
        body.files[name] = Part(name, "", found[1] or "", writer)
        writer.write(content)
        del body.values[name]


def _unwrapped(value: Any) -> Any:
    """Return what a picture or a recording refers to: {"image_url": …} and the like, also as text, as forms have it."""
    found = json.loads(value) if isinstance(value, str) and value.startswith("{") else value
    if not isinstance(found, dict) or not set(found) <= {*WRAPPED, "type"}:
        return value
    inner = next((found[name] for name in WRAPPED if found.get(name)), None)
    return inner.get("url") if isinstance(inner, dict) else inner
