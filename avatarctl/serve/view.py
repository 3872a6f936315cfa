"""Show a job as clients of the API see it: the object of /v1/videos, with what is ours in ``detail``."""

from __future__ import annotations

import json
from typing import Any

from avatarctl import durable
from avatarctl.serve.jobs import EVALUATION, Job
from avatarctl.serve.queue import Queue, asked_of

STATUS = {
    "waiting": "queued",
    "paused": "queued",
    "running": "in_progress",
    "done": "completed",
    "failed": "failed",
    "cancelled": "failed",
}
TYPES = {
    2: "invalid_request_error",
    4: "invalid_input_error",
    5: "weights_missing_error",
    7: "conflict_error",
    8: "device_error",
}
MOST_KEPT = 5000
ESTIMATED = ("video_s", "time_s", "time_basis", "passes", "window_steps", "memory_bytes", "video_bytes")


class Views:
    """The objects of jobs as JSON, made once for all who ask until something changes."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._texts: dict[str, tuple[Any, str]] = {}

    def key(self, job: Job, hold: str) -> Any:
        """Return what the object of a job depends on: it is another one when this is."""
        return job.changed, self._queue.position(job), hold

    def text(self, job: Job, hold: str) -> str:
        """Return the object of a job as one line of JSON."""
        key = self.key(job, hold)
        known = self._texts.get(job.id)
        if known is None or known[0] != key:
            if len(self._texts) > MOST_KEPT:
                self._texts.clear()
            known = self._texts[job.id] = (key, json.dumps(view(job, self._queue, hold)))
        return known[1]


def view(job: Job, queue: Queue, hold: str = "") -> dict[str, Any]:
    """Return the object of a job."""
    asked, outcome, progress = job.asked, job.outcome, job.progress
    render = asked["job"]["render"]
    detail: dict[str, Any] = {
        "state": _word(job, queue, hold),
        "position": queue.position(job),
        "stage": progress.get("stage") if job.state == "running" else None,
        "passes_done": progress.get("done"),
        "passes_total": progress.get("total") or asked["estimate"]["window_steps"],
        "left_s": progress.get("left_s") if job.state == "running" else None,
        "finished_video_s": progress.get("video_s"),
        "estimate": {name: asked["estimate"][name] for name in ESTIMATED},
        "preset": asked["model"],
        "settings": asked["said"],
        "names": asked["names"],
        "notes": list(dict.fromkeys([*asked["notes"], *outcome.get("notes", [])])),
        "user": asked["user"],
        "started_at": _whole(job.started_at),
        "wall_s": outcome.get("wall_s"),
        "video_size": _enlarged(render),
        "container": job.output.suffix[1:],
        "evaluation": durable.unsealed(job.folder / EVALUATION) if job.state == "done" else None,
        "measuring": job.measuring,
    }
    length = outcome.get("video_s") or asked["estimate"]["video_s"]
    return {
        "id": job.id,
        "object": "video",
        "model": asked["model"],
        "status": STATUS[job.state],
        "progress": percent(job),
        "created_at": int(asked["created_at"]),
        "completed_at": _whole(outcome.get("at")) if job.state in ("done", "failed") else None,
        "expires_at": None,
        "prompt": render["prompt"],
        "seconds": f"{length:g}",
        "size": render["size"],
        "seed": render["seed"],
        "error": _error(job),
        "remixed_from_video_id": None,
        "detail": detail,
    }


def percent(job: Job) -> int:
    """Return the share of the work that is done, 100 only for a finished video."""
    if job.state == "done":
        return 100
    done, total = job.progress.get("done", 0), job.progress.get("total", 0)
    return min(100 * done // total, 99) if total else 0


def _word(job: Job, queue: Queue, hold: str) -> str:
    """Return the state in a word or a few, as people read it."""
    if job.state == "running":
        wishes = asked_of(job)
        if "cancelled" in wishes:
            return "cancelling"
        if "paused" in wishes:
            return "pausing"
        return "rendering" if job.place is not None else "rendering, as an earlier server or you began it"
    if job.state == "waiting":
        if hold:
            return hold
        log = queue.logs.get(job.id)  # none: it was removed just now
        return "interrupted, continues" if log is not None and log.count > 1 and job.begun() else "waiting"
    return {"done": "completed"}.get(job.state, job.state)


def _error(job: Job) -> dict[str, Any] | None:
    if job.state == "cancelled":
        return {
            "code": "cancelled",
            "type": "cancelled",
            "message": "the job was cancelled",
            "hint": "resume or delete it",
        }
    if job.state != "failed":
        return None
    code = job.outcome.get("exit_code", 1)
    kind = TYPES.get(code, "server_error")
    return {"code": kind, "type": kind, "message": job.outcome.get("message", ""), "hint": job.outcome.get("hint", "")}


def _enlarged(render: dict[str, Any]) -> str:
    return "x".join(str(int(side) * render.get("enlarge", 1)) for side in render["size"].split("x"))


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)
