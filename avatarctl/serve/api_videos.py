"""The verbs of /v1/videos: create, look, list, delete, pause, resume, cancel, move, estimate, and what comes out."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse

from avatarctl.errors import AvatarError
from avatarctl.paths import EMBEDDED_PICTURES, picture_place
from avatarctl.render.crop import framing_json
from avatarctl.serve.answers import Content, Refused
from avatarctl.serve.documents import CREATE, MOVE, RESPONSES
from avatarctl.serve.house import House, named
from avatarctl.serve.incoming import reading
from avatarctl.serve.jobs import Job, is_id
from avatarctl.serve.pictures import picture_of

router = APIRouter(prefix="/v1/videos", tags=["videos"], responses=RESPONSES)
TYPES = {".mp4": "video/mp4", ".mov": "video/quicktime", ".mkv": "video/x-matroska", ".webm": "video/webm"}
VARIANTS = Literal["video", "thumbnail", "spritesheet"]


def house_of(request: Request) -> House:
    """Return the house that a request is served by."""
    house: House = request.app.state.house
    return house


async def in_turn(request: Request, work: Callable[..., Any], *words: Any) -> Any:
    """Do work that looks at files in a thread, little of it at once: whatever strangers send, other requests have threads."""
    async with request.app.state.looking:
        return await asyncio.to_thread(work, *words)


def job_named(request: Request, name: str) -> Job:
    """Return the job of a path; raises ``Refused`` (404)."""
    try:
        if not is_id(name):
            raise KeyError(name)
        return house_of(request).queue.get(name)
    except KeyError as error:
        raise Refused(404, f"{name[:80]}: got no such video", "GET /v1/videos lists those there are") from error


def shown(request: Request, job: Job) -> Response:
    """Return the answer that shows a job."""
    return Response(text_of(request, job), media_type="application/json")


def text_of(request: Request, job: Job) -> str:
    """Return a job as clients see it, as JSON."""
    house = house_of(request)
    return house.views.text(job, house.supervisor.hold)


@router.post("", response_class=JSONResponse, openapi_extra=CREATE)
async def create(request: Request) -> Response:
    """Queue a video: the picture of a person and a recording, as a form with files or as JSON with file ids or data URLs.

    With an `Idempotency-Key`, the same request again returns the same video.
    """
    house = house_of(request)
    async with reading(request, house.spool) as body:
        job, again = await in_turn(request, house.create, body, request.headers.get("idempotency-key", ""))
    answer = shown(request, job)
    if again:
        answer.headers["Idempotent-Replayed"] = "true"
    return answer


@router.post("/estimate", openapi_extra=CREATE)
async def estimate(request: Request) -> dict[str, Any]:
    """Check a request as `create` does, and say what it would take; nothing is queued."""
    house = house_of(request)
    async with reading(request, house.spool) as body:
        found: dict[str, Any] = await in_turn(request, _estimate, house, body)
        return found


def _estimate(house: House, body: Any) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=house.own, prefix=".new-") as name:
        folder = Path(name)
        asked = house.asked(body)
        job, _, _ = house.job_in(folder, asked, body)
        found = house.checked(job, folder)
        return {"object": "estimate", "model": asked.preset, "size": "x".join(map(str, job.render.size)), **found}


@router.post("/crop", openapi_extra=CREATE)
async def crop(request: Request) -> dict[str, Any]:
    """Say how the picture of a request is framed: the crop and the faces, in pixels of the picture. No recording is needed."""
    house = house_of(request)
    async with reading(request, house.spool) as body:
        found: dict[str, Any] = await in_turn(request, _crop, house, body)
        return found


def _crop(house: House, body: Any) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=house.own, prefix=".new-") as name:
        folder = Path(name)
        (folder / "audio").touch()
        body.values["audio"] = "file_" + "0" * 24  # none is needed
        asked = house.asked(body)
        settings = house.serving.offers[asked.preset].settings(asked.settings)
        picture, given = settings.image, None
        if asked.image in EMBEDDED_PICTURES:
            picture = picture_place(Path(asked.image))
        elif asked.image is not None:
            given = house.picture(body, asked.image)
            picture = house.spool.path_of(given)
        if picture is None:
            raise Refused(400, "image: missing, and the preset has none of its own", "send a picture of the person")
        job = house.bare_job(settings, picture, folder, asked.preset)
        try:
            framing = house.framing(job)
        except AvatarError as problem:
            problem.message = named(problem.message, picture, "the picture")
            raise
        found = framing_json(framing)
        if found["crop"] is not None:
            found["crop"]["warnings"] = [named(each, picture, "the picture") for each in found["crop"]["warnings"]]
        width, height = house.size_of(given, picture)
        return {"object": "crop", "fit": job.render.fit, "size": "x".join(map(str, job.render.size)),
                "width": width, "height": height, **found}  # fmt: skip


@router.get("", response_class=JSONResponse)
async def listed(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
    after: Annotated[str | None, Query(max_length=80)] = None,
    order: Literal["asc", "desc"] = "desc",
) -> Response:
    """List videos by the time of their creation, the newest first; `after` is the id of the last one that you have."""
    jobs = house_of(request).queue.listed()
    if order == "desc":
        jobs.reverse()
    if after:
        places = [place for place, job in enumerate(jobs) if job.id == after]
        if not places:
            raise Refused(400, f"after: got {after[:80]}, which isn't there", "begin again without it")
        jobs = jobs[places[0] + 1 :]
    page = jobs[:limit]
    about = {
        "object": "list",
        "first_id": page[0].id if page else None,
        "last_id": page[-1].id if page else None,
        "has_more": len(jobs) > limit,
    }
    texts = ", ".join(text_of(request, job) for job in page)
    return Response(f'{json.dumps(about)[:-1]}, "data": [{texts}]}}', media_type="application/json")


@router.get("/{video_id}", response_class=JSONResponse)
async def look(request: Request, video_id: str) -> Response:
    """Show a video: its status, progress, and what is known of it."""
    return shown(request, job_named(request, video_id))


@router.delete("/{video_id}")
def delete(request: Request, video_id: str) -> dict[str, Any]:
    """Delete a video, its inputs and what is saved of its render; one at work is stopped first."""
    job = job_named(request, video_id)
    house_of(request).queue.remove(job)
    return {"id": job.id, "object": "video.deleted", "deleted": True}


@router.post("/{video_id}/pause", response_class=JSONResponse)
def pause(request: Request, video_id: str) -> Response:
    """Let a video wait; one at work saves what it has, and its worker takes the next job."""
    job = job_named(request, video_id)
    house_of(request).queue.pause(job)
    return shown(request, job)


@router.post("/{video_id}/resume", response_class=JSONResponse)
def resume(request: Request, video_id: str) -> Response:
    """Put a paused, cancelled or failed video back in line; it continues from what is saved."""
    job = job_named(request, video_id)
    house_of(request).queue.resume(job)
    return shown(request, job)


@router.post("/{video_id}/cancel", response_class=JSONResponse)
def cancel(request: Request, video_id: str) -> Response:
    """Give a video up; what is saved stays until it is deleted, and `resume` continues it."""
    job = job_named(request, video_id)
    house_of(request).queue.cancel(job)
    return shown(request, job)


@router.post("/{video_id}/evaluate", response_class=JSONResponse)
def evaluate(request: Request, video_id: str) -> Response:
    """Measure a finished video: lips, face, colour, sharpness; the row is in `detail.evaluation` some time later."""
    job = job_named(request, video_id)
    house_of(request).measurer.ask(job)
    return shown(request, job)


@router.post("/{video_id}/move", response_class=JSONResponse, openapi_extra=MOVE)
async def move(request: Request, video_id: str) -> Response:
    """Put a waiting video to another place in the line: {"to": "first"}, {"to": "last"}, {"before": ID} or {"after": ID}."""
    house, job = house_of(request), job_named(request, video_id)
    async with reading(request, house.spool) as body:
        values = {name: value for name, value in body.values.items() if name in ("to", "before", "after")}
        strange = set(body.values) - set(values)
    to, other = next(iter(values.items()), ("", ""))
    if len(values) != 1 or strange or not isinstance(other, str) or (to == "to" and other not in ("first", "last")):
        raise Refused(400, "move: expected one of to (first or last), before or after (a video)", '{"to": "first"}')
    if to == "to":
        await asyncio.to_thread(house.queue.move, job, other)
    else:
        await asyncio.to_thread(house.queue.move, job, to, job_named(request, other))
    return shown(request, job)


@router.get("/{video_id}/content", response_class=Content)
def content(request: Request, video_id: str, variant: VARIANTS = "video", download: bool = False) -> Response:
    """Return the finished video (with Range), its thumbnail or a sheet of its pictures; of one at work the newest picture."""
    job = job_named(request, video_id)
    if variant != "video":
        return Content(picture_of(job, variant), media_type="image/jpeg", headers=_caching(job))
    if job.state != "done":
        raise Refused(
            409, f"{job.id}: got a video that isn't finished", f"watch GET /v1/videos/{job.id}/events, or its live view"
        )
    if not job.output.is_file():
        raise Refused(404, f"{job.id}: the video is gone from its folder", "resume the job to render it again")
    name = f"{job.id}{job.output.suffix}"
    how = "attachment" if download else "inline"
    headers = {**_caching(job), "Content-Disposition": f'{how}; filename="{name}"'}
    return Content(job.output, media_type=TYPES[job.output.suffix], headers=headers)


def _caching(job: Job) -> dict[str, str]:
    return {"Cache-Control": "private, max-age=3600" if job.state == "done" else "no-store"}


@router.head("/{video_id}/content", include_in_schema=False)
def content_head(request: Request, video_id: str, variant: VARIANTS = "video") -> Response:
    """Say how large the content is."""
    return content(request, video_id, variant)
