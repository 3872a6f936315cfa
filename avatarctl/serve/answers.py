"""Say errors as the API does: {"error": {"type", "message", "hint"}} with the right code; no other shape leaves the server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from avatarctl import console
from avatarctl.errors import (
    AvatarError,
    BusyError,
    ChangedError,
    DeviceError,
    InputFileError,
    UsageError,
    WeightsError,
)

# Kind of error -> code and type. A full disk is a DeviceError of its own code.
CODES: tuple[tuple[type[AvatarError], int, str], ...] = (
    (UsageError, 400, "invalid_request_error"),
    (InputFileError, 400, "invalid_input_error"),
    (WeightsError, 503, "weights_missing_error"),
    (BusyError, 409, "conflict_error"),
    (ChangedError, 409, "conflict_error"),
    (DeviceError, 503, "device_error"),
)
TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "method_not_allowed_error",
    408: "timeout_error",
    409: "conflict_error",
    411: "invalid_request_error",
    413: "too_large_error",
    415: "unsupported_media_type_error",
    416: "range_error",
    422: "idempotency_error",
    425: "not_ready_error",
    429: "rate_limit_error",
    501: "not_implemented_error",
    507: "disk_full_error",
}


class Refused(Exception):
    """A request that is refused with a code, for a reason that the client can do something about."""

    def __init__(self, code: int, message: str, hint: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.hint, self.headers = code, message, hint, dict(headers or {})


def error(code: int, message: str, hint: str = "", kind: str = "", headers: Mapping[str, str] | None = None) -> Any:
    """Return the answer that says what went wrong."""
    content = {"type": kind or TYPES.get(code, "server_error"), "message": message, "hint": hint, "code": code}
    return JSONResponse({"error": content}, code, dict(headers or {}))


class Content(FileResponse):
    """A file, or the part of it that is asked for; a Range that can't be is said in the shape of all errors."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file."""
        refused: Message | None = None
        if not Path(self.path).is_file():  # removed meanwhile
            gone = error(404, f"{Path(self.path).name}: is gone", "GET /v1/videos lists what there is")
            await gone(scope, receive, send)
            return

        async def look(message: Message) -> None:
            nonlocal refused
            if message["type"] == "http.response.start" and message["status"] >= 400:
                refused = message
            elif refused is None:
                await send(message)

        await super().__call__(scope, receive, look)
        if refused is not None:
            told = {name.decode(): value.decode() for name, value in refused["headers"] if name == b"content-range"}
            asked = dict(scope["headers"]).get(b"range", b"").decode("latin-1")
            said = f"Range: got '{asked[:100]}', which isn't in this file"
            await error(refused["status"], said, "bytes=0-999 are the first thousand bytes", headers=told)(
                scope, receive, send
            )


def of_problem(problem: AvatarError) -> tuple[int, str]:
    """Return code and type of an error of the program's own."""
    if isinstance(problem, DeviceError) and "disk" in problem.message:
        return 507, TYPES[507]
    return next(
        ((code, kind) for family, code, kind in CODES if isinstance(problem, family)),
        (500, "server_error"),
    )


def install(app: FastAPI) -> None:
    """Let an application say all its errors in this shape."""

    async def refused(_: Request, problem: Any) -> Any:
        return error(problem.code, problem.message, problem.hint, headers=problem.headers)

    async def known(_: Request, problem: Any) -> Any:
        code, kind = of_problem(problem)
        return error(code, problem.message, problem.hint, kind)

    async def http(request: Request, problem: Any) -> Any:
        hints = {404: "GET /openapi.json lists what there is", 405: f"allowed: {(problem.headers or {}).get('allow')}"}
        said = f"{request.method} {request.url.path}: {problem.detail}"
        return error(problem.status_code, said, hints.get(problem.status_code, ""), headers=problem.headers)

    async def invalid(_: Request, problem: Any) -> Any:
        lines = [f"{'.'.join(str(part) for part in each['loc'][1:])}: {each['msg']}" for each in problem.errors()]
        return error(400, "; ".join(lines), "GET /openapi.json says what each part of a request accepts")

    async def bug(request: Request, problem: Any) -> Any:
        console.trace()
        console.note(f"bug: {request.method} {request.url.path}: {type(problem).__name__}: {problem}")
        said = f"this is a bug of ours: {type(problem).__name__}"
        return error(500, said, "the server's terminal says more with AVATARCTL_DEBUG=1; please report it")

    app.add_exception_handler(Refused, refused)
    app.add_exception_handler(AvatarError, known)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Exception, bug)
