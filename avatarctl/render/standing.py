"""How far a render is, in numbers, from the files of its folder alone: passes, minutes of video, sizes; no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from avatarctl.durable import read_json, unsealed
from avatarctl.errors import AvatarError
from avatarctl.render.index import Entry, read_index
from avatarctl.render.inputs import exact, job_of, plan_of
from avatarctl.render.ours import DELIVERED, MANIFEST, OWN_FOLDERS
from avatarctl.sampling.windows import SAMPLE_RATE_HZ, Plan
from avatarctl.settings.render import RenderJob, RenderSettings
from avatarctl.tensorfile import facts_of

WAVEFORM = "audio.f32"


@dataclass(frozen=True)
class Standing:
    """How far a render is. ``None``: the recording was not decoded yet, and its length can't be read."""

    passes_done: int
    passes_total: int | None
    video_done_s: float
    video_s: float | None
    bytes: dict[str, int]
    """Bytes on disk by part of the folder, and ``total``."""

    @property
    def percent(self) -> int | None:
        """Return the share of the work that is done; 100 only when all of it is."""
        return None if not self.passes_total else 100 * self.passes_done // self.passes_total

    def words(self) -> str:
        """Return it in words: ``28 %, 55 of 192 passes``."""
        if self.passes_total is None:
            return f"{self.passes_done} passes" if self.passes_done else "just begun"
        return f"{self.percent} %, {self.passes_done} of {self.passes_total} passes"

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as JSON holds them."""
        return {**asdict(self), "percent": self.percent}


def standing(path: Path) -> Standing:
    """Return how far the render in a folder is; raises nothing for damaged files: they count as not there."""
    manifest = unsealed(path / MANIFEST)
    job = job_of(manifest) if manifest is not None else None
    files = read_index(path).files
    delivered = unsealed(path / DELIVERED)
    plan = plan_in(job, files) if job is not None else None
    total = plan.count * job.render.steps if plan is not None and job is not None else None
    sizes = sizes_of(path)
    if delivered is not None and total is not None:
        return Standing(total, total, delivered["video_s"], delivered["video_s"], sizes)
    done = steps_done(path, job.render, files) if job is not None else 0
    if plan is not None and total is not None and sum(name.startswith("windows/") for name in files) == plan.count:
        done = total  # only pictures are left to decode
    if plan is None or job is None:
        return Standing(done, None, 0.0, None, sizes)
    segments = 0
    encoded = {name.split(".")[0] for name in files}
    while f"segments/{segments:06d}" in encoded:
        segments += 1
    latents = min(segments * job.render.segment_latent_frames, plan.latent_frames)
    pictures = min(4 * (latents - 1) + 1 if latents else 0, plan.video_frames)
    return Standing(
        min(done, total or done),
        total,
        round(float(pictures / plan.fps), 3),
        round(float(plan.video_frames / plan.fps), 3),
        sizes,
    )


def plan_in(job: RenderJob, files: Mapping[str, Entry]) -> Plan | None:
    """Return the plan of a render: by its decoded sound, else by the length that the recording says it has."""
    if WAVEFORM in files:
        return plan_of(job.render, files[WAVEFORM].bytes // 4)
    from avatarctl.audio.decode import probe

    try:
        whole_s = probe(job.audio).duration_s
    except (AvatarError, OSError):
        return None
    if whole_s is None:
        return None
    left_s = exact(round(whole_s, 6)) - exact(job.render.start_s)
    used_s = left_s if job.render.duration_s is None else min(left_s, exact(job.render.duration_s))
    return plan_of(job.render, round(used_s * SAMPLE_RATE_HZ)) if used_s > 0 else None


def steps_done(path: Path, settings: RenderSettings, files: Mapping[str, Entry]) -> int:
    """Return the window steps that a resumed render need not compute: what the newest saved generation holds."""
    for name in sorted((name for name in files if name.startswith("frontier/generation-")), reverse=True):
        if name.endswith(".json"):  # of the first version: a list of files, named by window and steps
            saved = read_json(path / name)
            begun = ((saved or {}).get("windows") or {}).values()
            steps = [int(each.rpartition("-")[2].split(".")[0]) for each in begun]
        else:
            saved = facts_of(path / name)
            steps = list(json.loads((saved or {}).get("steps", "{}")).values())
        if saved is not None:
            return int(saved["first"]) * settings.steps + sum(steps)
    return 0


def steps_in(path: Path) -> int:
    """Return the window steps that are saved in a render folder; 0 where there is no render."""
    manifest = unsealed(path / MANIFEST)
    return 0 if manifest is None else steps_done(path, job_of(manifest).render, read_index(path).files)


def sizes_of(path: Path) -> dict[str, int]:
    """Return the bytes on disk of the parts of a folder: each subfolder of ours, the rest, and all."""
    found = dict.fromkeys((*OWN_FOLDERS, "rest"), 0)
    for entry in path.rglob("*"):
        try:
            if entry.is_file() and not entry.is_symlink():
                top = entry.relative_to(path).parts[0]
                found[top if top in OWN_FOLDERS else "rest"] += entry.stat().st_size
        except OSError:
            continue  # a running render removed it meanwhile
    return {**found, "total": sum(found.values())}
