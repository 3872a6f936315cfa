"""Make small pictures of a job with ffmpeg, each once: a thumbnail, a sheet of pictures, the newest one of a render at work."""

from __future__ import annotations

import threading
from pathlib import Path

from avatarctl import durable
from avatarctl.render.ffmpeg import check, start
from avatarctl.serve.answers import Refused
from avatarctl.serve.jobs import PREVIEW, Job

THUMBNAIL_PX, CELL_PX, COLUMNS, ROWS = 512, 192, 5, 4
_lock = threading.Lock()
_newest: dict[str, Path] = {}


def picture_of(job: Job, variant: str) -> Path:
    """Return a JPEG: the thumbnail (of a render at work its newest picture) or the spritesheet."""
    with _lock:
        if job.state == "done":
            return _sheet(job) if variant == "spritesheet" else _thumbnail(job)
        if variant == "spritesheet":
            raise Refused(
                409, f"{job.id}: got a video that isn't finished, expected one for a sheet", "wait for its end"
            )
        return _now(job)


def _thumbnail(job: Job) -> Path:
    return _made(job.folder / "thumbnail.jpg", ["-i", f"file:{job.output}", "-vf", _within(THUMBNAIL_PX)])


def _sheet(job: Job) -> Path:
    pictures = float(job.outcome.get("video_s") or 1) * float(job.render_job.render.fps)
    step = max(int(pictures // (COLUMNS * ROWS)), 1)
    grid = f"select=not(mod(n\\,{step})),{_within(CELL_PX)},tile={COLUMNS}x{ROWS}"
    return _made(job.folder / "spritesheet.jpg", ["-i", f"file:{job.output}", "-vf", grid, "-fps_mode", "passthrough"])


def _now(job: Job) -> Path:
    folder = job.render_job.folder / "segments"
    segments = sorted(path for path in folder.glob("*") if path.suffix in (".mp4", ".mov")) if folder.is_dir() else []
    target = job.folder / "now.jpg"
    if not segments:
        source = [*_newest_or_picture(job, target)]
        return target if not source else _made(target, source)
    if _newest.get(job.id) != segments[-1]:
        target.unlink(missing_ok=True)
        _newest[job.id] = segments[-1]
    return _made(target, ["-sseof", "-0.2", "-i", f"file:{segments[-1]}", "-vf", _within(THUMBNAIL_PX)])


def _newest_or_picture(job: Job, target: Path) -> list[str]:
    """Return ffmpeg's words for the picture that came with the job, unless a newer one is there already."""
    if target.is_file():
        return []
    preview, own = job.folder / PREVIEW, job.render_job.image
    if not preview.is_file() and own.parent != job.folder:
        preview = own  # the preset's, which nobody sent
    if not preview.is_file():
        raise Refused(425, f"{job.id}: got no picture of it yet", "try again in a moment", {"Retry-After": "2"})
    return ["-i", f"file:{preview}", "-vf", _within(THUMBNAIL_PX)]


def _within(side: int) -> str:
    return f"scale='if(gt(iw,ih),min(iw,{side}),-2)':'if(gt(iw,ih),-2,min(ih,{side}))'"


def _made(target: Path, words: list[str]) -> Path:
    if target.is_file():
        return target
    output = ["-frames:v", "1", "-q:v", "4", "-f", "image2pipe", "-c:v", "mjpeg", "-"]
    process = start([*words, *output])
    content, log = process.communicate()
    check(process.returncode, log)
    if not content:
        raise Refused(425, "got no picture yet", "try again in a moment", {"Retry-After": "2"})
    durable.replace(target, content, make=False)
    return target
