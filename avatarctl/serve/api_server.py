"""What the server says of itself: presets as models, uploads, health, metrics; and the page."""

from __future__ import annotations

import asyncio
import hmac
import platform
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from avatarctl import __version__
from avatarctl.paths import embedded_avatar
from avatarctl.serve import metrics
from avatarctl.serve.access import COOKIE, session_of
from avatarctl.serve.answers import Content, Refused
from avatarctl.serve.api_videos import house_of, in_turn
from avatarctl.serve.documents import RESPONSES, UPLOAD
from avatarctl.serve.house import House
from avatarctl.serve.incoming import reading
from avatarctl.serve.measuring import can_measure
from avatarctl.serve.spool import KEPT_S, NAME, Spooled

router = APIRouter(responses=RESPONSES)
SAMPLES = {"picture.png": "image/png", "voice.wav": "audio/wav"}
PAGE = {
    "": ("index.html", "text/html; charset=utf-8"),
    "docs": ("docs.html", "text/html; charset=utf-8"),
    **{
        f"page/{name}": (name, kind)
        for name, kind in (
            ("style.css", "text/css; charset=utf-8"),
            ("app.js", "text/javascript; charset=utf-8"),
            ("form.js", "text/javascript; charset=utf-8"),
            ("jobs.js", "text/javascript; charset=utf-8"),
            ("live.js", "text/javascript; charset=utf-8"),
            ("record.js", "text/javascript; charset=utf-8"),
            ("docs.js", "text/javascript; charset=utf-8"),
            ("icon.svg", "image/svg+xml"),
        )
    },
}


# -- Presets ----------------------------------------------------------------------------------------------------------------


@router.get("/v1/models", tags=["server"])
def models(request: Request) -> dict[str, Any]:
    """List the presets, which clients name as `model`: what each is for, and whether its weights are there."""
    house = house_of(request)
    return {"object": "list", "data": [_model(house, name) for name in house.serving.offers]}


@router.get("/v1/models/{model}", tags=["server"])
def model(request: Request, model: str) -> dict[str, Any]:
    """Show a preset."""
    house = house_of(request)
    if model not in house.serving.offers:
        raise Refused(404, f"{model[:80]}: got no such preset", "GET /v1/models lists those there are")
    return _model(house, model)


def _model(house: House, name: str) -> dict[str, Any]:
    offer = house.serving.offers[name]
    settings = offer.settings({})
    lacks = house.ready(offer)
    return {
        "id": name,
        "object": "model",
        "created": int(house.began),
        "owned_by": "avatarctl",
        "description": offer.description,
        "size": "x".join(map(str, settings.size)),
        "steps": settings.steps,
        "own_picture": settings.image is not None,
        "ready": not lacks,
        "lacks": lacks,
    }


# -- Uploads ----------------------------------------------------------------------------------------------------------------


@router.post("/v1/files", tags=["files"], openapi_extra=UPLOAD)
async def upload(request: Request) -> dict[str, Any]:
    """Upload a picture or a recording for later requests; it is kept for a day."""
    house = house_of(request)
    async with reading(request, house.spool) as body:
        if set(body.files) != {"file"}:
            raise Refused(400, "file: expected one file in the field `file`", "curl -F file=@me.jpg")
        kept: Spooled = await in_turn(request, house.keep_file, body.files["file"])
    return _file(kept, str(body.values.get("purpose", "user_data")))


@router.get("/v1/files/{file_id}", tags=["files"])
def file(request: Request, file_id: str) -> dict[str, Any]:
    """Show an uploaded file."""
    return _file(_kept(request, file_id), "user_data")


@router.get("/v1/files/{file_id}/preview", tags=["files"], response_class=Content)
def preview(request: Request, file_id: str) -> Response:
    """Return an uploaded picture as it is read: upright, small, as JPEG."""
    kept = _kept(request, file_id)
    path = house_of(request).spool.preview_of(kept)
    if kept.kind != "image" or not path.is_file():
        raise Refused(404, f"{file_id}: got no preview of a file of the kind {kept.kind}")
    return Content(path, media_type="image/jpeg")


@router.delete("/v1/files/{file_id}", tags=["files"])
def delete(request: Request, file_id: str) -> dict[str, Any]:
    """Delete an uploaded file; videos that use it have their own copy."""
    kept = _kept(request, file_id)
    house_of(request).spool.remove(kept.id)
    return {"id": kept.id, "object": "file", "deleted": True}


def _kept(request: Request, name: str) -> Spooled:
    try:
        if not NAME.fullmatch(name):
            raise KeyError(name)
        return house_of(request).spool.get(name)
    except KeyError as error:
        raise Refused(404, f"{name[:80]}: got no such file", "upload it: POST /v1/files") from error


def _file(kept: Spooled, purpose: str) -> dict[str, Any]:
    return {
        "id": kept.id,
        "object": "file",
        "bytes": kept.bytes,
        "created_at": int(kept.created_at),
        "expires_at": int(kept.created_at + KEPT_S),
        "filename": kept.filename,
        "purpose": purpose[:64],
        "kind": kept.kind,
        **kept.facts,
    }


# -- The server ---------------------------------------------------------------------------------------------------------------


@router.get("/health", tags=["server"])
def health(request: Request) -> JSONResponse:
    """Say whether the server works: 200, or 503 with the reason."""
    house = house_of(request)
    alive = house.supervisor.is_alive()
    content = {
        "status": "ok" if alive else "failing",
        "version": __version__,
        "hold": house.supervisor.hold or None,
        "workers": len(house.supervisor.places),
        "waiting": len(house.queue.waiting()),
        "damaged": len(house.queue.damaged),
    }
    return JSONResponse(content, 200 if alive else 503)


@router.get("/metrics", tags=["server"], response_class=PlainTextResponse)
def measured(request: Request) -> PlainTextResponse:
    """Return numbers for Prometheus."""
    state = request.app.state
    text = metrics.text(state.house, state.streams.open, state.counts)
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/about", tags=["server"])
def about(request: Request) -> dict[str, Any]:
    """Say what the page needs to know: limits, and where jobs lie."""
    house = house_of(request)
    return {
        "version": __version__,
        "host": platform.node(),
        "folder": str(house.folder),
        "max_upload_bytes": house.serving.limits.file_bytes,
        "max_picture_bytes": house.serving.limits.picture_bytes,
        "workers": len(house.supervisor.places),
        "measures": can_measure(),
        "login": bool(house.serving.token),
    }


# -- The page -----------------------------------------------------------------------------------------------------------------


@router.post("/login", include_in_schema=False)
async def login(request: Request) -> Response:
    """Let a browser in that knows the token: it gets a cookie that scripts can't read and other sites can't send."""
    house = house_of(request)
    async with reading(request, house.spool) as body:
        given = str(body.values.get("token", ""))
    await asyncio.sleep(0.3)  # guessing takes its time
    if not hmac.compare_digest(given.encode(), house.serving.token.encode()):
        raise Refused(401, "token: got another one than this server's", "it was said where the server was started")
    answer = JSONResponse({"ok": True})
    answer.set_cookie(COOKIE, session_of(house.serving.token), httponly=True, samesite="strict", path="/")
    return answer


@router.get("/samples/{name}", include_in_schema=False)
def sample(name: str) -> Response:
    """Return the picture or the voice that comes with the program, to try it with."""
    if name not in SAMPLES:
        raise Refused(404, f"{name[:80]}: got no such sample", f"there are {' and '.join(SAMPLES)}")
    return Content(embedded_avatar() / "samples" / name, media_type=SAMPLES[name])


def _page(path: str) -> Any:
    name, kind = PAGE[path]
    source = Path(str(files("avatarctl.serve") / "page" / name))

    def send() -> Response:
        return Content(source, media_type=kind, headers={"Cache-Control": "no-cache"})

    return send


for _path in PAGE:
    router.add_api_route(f"/{_path}", _page(_path), include_in_schema=False, methods=["GET", "HEAD"])
