"""Events of one video or of all, as they happen; and the live view of a video at work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import PlainTextResponse

from avatarctl.serve.answers import Refused
from avatarctl.serve.api_videos import house_of, job_named, text_of
from avatarctl.serve.documents import RESPONSES
from avatarctl.serve.jobs import LOG
from avatarctl.serve.live import Live, live_of
from avatarctl.serve.log import after
from avatarctl.serve.streams import BEAT_S, EventStream, News, as_event, in_event

router = APIRouter(tags=["events"], responses=RESPONSES)
STEP_S = 0.4  # changes that come closer together are told together
RETRY = "retry: 2000\n\n"
HLS = "application/vnd.apple.mpegurl"


@router.get("/v1/videos/{video_id}/events", response_class=EventStream, status_code=200)
async def events(request: Request, video_id: str, last_event_id: str | None = Header(None, max_length=20)) -> Response:
    """Send the events of a video from its first, or after `Last-Event-ID`; between them `progress`, which has no id.

    The stream ends after `completed`; a client that comes again with the last id misses nothing.
    """
    job = job_named(request, video_id)
    number = int(last_event_id) if last_event_id and last_event_id.isdecimal() else 0
    state = request.app.state

    async def told() -> AsyncIterator[str]:
        nonlocal number
        yield RETRY
        seen = ""
        while not state.streams.closing:
            found = await asyncio.to_thread(after, job.folder / LOG, number)
            for number, event in found:
                yield as_event(event, str(event["event"]), number)
            if job.state == "removing" or job.id not in state.house.queue.jobs:
                yield as_event({"id": job.id, "object": "video.deleted", "deleted": True}, "deleted")
                return
            now = text_of(request, job)
            if now != seen:
                seen = now
                yield in_event(now, "progress")
            if found:
                continue  # there may be more
            if job.state == "done":
                return
            await _pause(state.news)

    return state.streams.answer(told)


@router.get("/v1/events", response_class=EventStream, status_code=200)
async def all_events(request: Request) -> Response:
    """Send every video that changed, as `video`, and `deleted`; first all there are, then `ready`."""
    state = request.app.state
    queue, views = house_of(request).queue, house_of(request).views

    def hold() -> str:
        return house_of(request).supervisor.hold

    async def told() -> AsyncIterator[str]:
        yield RETRY
        known: dict[str, Any] = {}
        first = True
        while not state.streams.closing:
            jobs = queue.listed()
            for name in set(known) - {job.id for job in jobs}:
                del known[name]
                yield as_event({"id": name, "deleted": True}, "deleted")
            for job in jobs:
                key = views.key(job, hold())
                if known.get(job.id) != key:
                    known[job.id] = key
                    yield in_event(views.text(job, hold()), "video")
            if first:
                first = False
                yield as_event({"videos": len(jobs)}, "ready")
            await _pause(state.news)
            # A beat now and then lets proxies and clients know that the stream lives.
            yield ": \n\n"

    return state.streams.answer(told)


async def _pause(news: News) -> None:
    """Wait for a change, and a moment more for those that come with it."""
    if await news.wait(BEAT_S):
        await asyncio.sleep(STEP_S)


# -- The live view --------------------------------------------------------------------------------------------------------


async def _live(request: Request, video_id: str) -> Live:
    return await asyncio.to_thread(live_of, job_named(request, video_id))


def _playlist(text: str) -> PlainTextResponse:
    return PlainTextResponse(text, media_type=HLS, headers={"Cache-Control": "no-store"})


@router.get("/v1/videos/{video_id}/live.m3u8", tags=["live"], response_class=PlainTextResponse)
@router.get("/v1/videos/{video_id}/live/master.m3u8", include_in_schema=False)
async def master(request: Request, video_id: str) -> Response:
    """Return the HLS playlist of what is finished of a video, with sound; it grows until the video is finished."""
    text = (await _live(request, video_id)).master()
    return _playlist(text.replace("media.m3u8", "live/media.m3u8") if request.url.path.endswith("live.m3u8") else text)


@router.get("/v1/videos/{video_id}/live/media.m3u8", tags=["live"], response_class=PlainTextResponse)
async def media(request: Request, video_id: str) -> Response:
    """Return the media playlist of the live view."""
    return _playlist((await _live(request, video_id)).playlist())


@router.get("/v1/videos/{video_id}/live/init.mp4", tags=["live"], response_class=Response)
async def init(request: Request, video_id: str) -> Response:
    """Return the initial part of the live view."""
    found = await _live(request, video_id)
    return Response(await asyncio.to_thread(found.init), media_type="video/mp4")


@router.get("/v1/videos/{video_id}/live/{part}", tags=["live"], response_class=Response)
async def part(request: Request, video_id: str, part: str) -> Response:
    """Return a part of the live view, such as 0.m4s."""
    number = part.removesuffix(".m4s")
    if not (part.endswith(".m4s") and number.isascii() and number.isdigit() and len(number) < 9):
        raise Refused(404, f"{part[:80]}: got no part of a live view, expected a number such as 0.m4s")
    for _ in range(3):  # its file may be removed in the middle: the video is finished then, and has the same pictures
        found = await _live(request, video_id)
        if int(number) >= len(found.stretches):
            raise Refused(404, f"{part}: got {len(found.stretches)} parts so far", "read the playlist again")
        try:
            content = await asyncio.to_thread(found.fragment, int(number))
        except FileNotFoundError:
            continue
        return Response(content, media_type="video/iso.segment")
    raise Refused(425, f"{part}: not there at the moment", "try again", {"Retry-After": "1"})
