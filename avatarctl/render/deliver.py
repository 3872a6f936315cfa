"""Put the finished video in its place: segments, sound, subtitles and marks joined, and a contact sheet beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from avatarctl.render import marks
from avatarctl.render.contact_sheet import contact_sheet
from avatarctl.render.delivered import hand_over
from avatarctl.render.encoding import segment_file
from avatarctl.render.folder import RenderFolder
from avatarctl.render.guard import guarded
from avatarctl.render.join import join
from avatarctl.render.sound import Sound
from avatarctl.render.subtitles import SoftTrack
from avatarctl.sampling.windows import Plan
from avatarctl.settings.render import RenderJob


def deliver(
    job: RenderJob, folder: RenderFolder, sound: Sound | None, tracks: Sequence[SoftTrack], segments: int, plan: Plan
) -> Path | None:
    """Join segments, sound, subtitles and marks to the video, and put it in its place; return the contact sheet, if any."""
    names = [segment_file(segment, job.video) for segment in range(segments)]
    part = folder.new_part(f"video{job.video.suffix}")
    manifest = folder.manifest()
    with guarded(folder.path, folder.path):
        join([folder.path / name for name in names], part, sound, job.video, marks.tags_of(manifest, job.video), tracks)
        marks.append_xmp(manifest, job.video, part)
    hand_over(folder, part, job.output)
    if job.render.contact_sheet_every_s is None:
        return None
    sheet = job.output.with_suffix(".jpg")
    part = folder.new_part("sheet.jpg")
    with guarded(folder.path, folder.path):
        contact_sheet(job.output, part, job.render.contact_sheet_every_s, plan)
    hand_over(folder, part, sheet)
    return sheet
