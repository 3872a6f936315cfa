"""The numbers of a server in Prometheus' text form."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Mapping

from avatarctl import __version__
from avatarctl.serve.house import House

STATES = ("waiting", "running", "paused", "cancelled", "failed", "done")


def text(house: House, streams: int, requests: Mapping[str, int]) -> str:
    """Return all numbers."""
    jobs = house.queue.listed()
    states: Counter[str] = Counter(job.state for job in jobs)
    made = [job.outcome for job in jobs if job.state == "done"]
    rows = [
        *_metric("avatarctl_info", "gauge", "The version of the program.", {f'version="{__version__}"': 1}),
        *_metric("avatarctl_jobs", "gauge", "Jobs by state.", {f'state="{name}"': states[name] for name in STATES}),
        *_metric("avatarctl_workers", "gauge", "Places of workers.", {"": len(house.supervisor.places)}),
        *_metric(
            "avatarctl_workers_busy",
            "gauge",
            "Workers at work.",
            {"": sum(job.state == "running" and job.place is not None for job in jobs)},
        ),
        *_metric(
            "avatarctl_video_seconds", "gauge", "Seconds of finished video there are.", {"": _sum(made, "video_s")}
        ),
        *_metric("avatarctl_render_seconds", "gauge", "Seconds that their renders took.", {"": _sum(made, "wall_s")}),
        *_metric("avatarctl_jobs_created_total", "counter", "Jobs created.", {"": house.counts["created"]}),
        *_metric(
            "avatarctl_http_requests_total",
            "counter",
            "Requests answered, by code.",
            {f'code="{code}"': count for code, count in sorted(requests.items())},
        ),
        *_metric("avatarctl_event_streams", "gauge", "Event streams that are open.", {"": streams}),
        *_metric("avatarctl_disk_free_bytes", "gauge", "Free space.", {"": shutil.disk_usage(house.folder).free}),
        *_metric(
            "avatarctl_held",
            "gauge",
            "1 while no job begins, for lack of space.",
            {"": int(bool(house.supervisor.hold))},
        ),
        *_metric(
            "avatarctl_uptime_seconds", "gauge", "Seconds since the start.", {"": round(time.time() - house.began, 1)}
        ),
    ]
    return "\n".join(rows) + "\n"


def _sum(outcomes: list[dict[str, float]], name: str) -> float:
    return round(sum(outcome.get(name) or 0.0 for outcome in outcomes), 3)


def _metric(name: str, kind: str, about: str, values: Mapping[str, float]) -> list[str]:
    rows = [f"{name}{{{labels}}} {value}" if labels else f"{name} {value}" for labels, value in values.items()]
    return [f"# HELP {name} {about}", f"# TYPE {name} {kind}", *rows]
