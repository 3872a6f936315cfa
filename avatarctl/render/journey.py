"""Render a job inside its folder: cheap checks first, then the work, then clean-up after success."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING

from avatarctl.console import Progress
from avatarctl.errors import InputFileError, UsageError, WeightsError
from avatarctl.render.folder import RenderFolder
from avatarctl.render.inputs import Rendered, check, check_unchanged, manifest_of
from avatarctl.render.known import remember
from avatarctl.settings.render import RenderJob
from avatarctl.threads import computing_with

if TYPE_CHECKING:
    from avatarctl.render.networks import LoadedNetworks


def journey(job: RenderJob, force: bool, show: Progress, loaded: LoadedNetworks | None = None) -> Rendered | None:
    """Check, begin or go on, render, deliver, clean up. Gives None in a process that follows another one.

    ``loaded``: networks of earlier renders in this process, which may serve again.
    """
    checked = check(job, force)
    folder = RenderFolder(job.folder)
    if int(os.environ.get("RANK", "0")) > 0:
        from avatarctl.render.engine import run_follower

        run_follower(checked, folder)
        return None
    for note in checked.notes:
        warnings.warn(note, stacklevel=2)
    if strangers := folder.strangers():
        raise UsageError(
            f"{folder.path}: got a folder with other files ({', '.join(strangers[:5])}), expected an empty one or a render",
            "choose another --work-dir",
        )
    with folder.held():
        manifest = manifest_of(checked)
        if folder.exists() and force:
            folder.clear()
        fresh = False
        if folder.exists():
            check_unchanged(folder.manifest(), manifest, folder.path)
            rendered = already(job, folder)
        else:
            fresh = True
            folder.write_manifest(manifest)
            remember(folder.path)
            rendered = None
        if rendered is None:
            # Everything until here took no torch: mistakes show at once.
            from avatarctl.render.engine import run

            try:
                with computing_with(folder.manifest().get("threads")):  # renders of older versions don't tell
                    rendered = run(checked, folder, show, loaded)
            except (UsageError, InputFileError, WeightsError):
                # A mistake that shows late, such as a LoRA of another network: nothing is computed, nothing is left.
                if fresh and folder.exists() and not folder.listed("windows") and not folder.listed("frontier"):
                    folder.remove()
                raise
            facts = {"frames": str(job.frames), "video_s": rendered.video_s, "pictures": rendered.pictures}
            folder.mark_delivered(job.output, facts)
        if not job.keep:
            folder.remove()
    return rendered


def already(job: RenderJob, folder: RenderFolder) -> Rendered | None:
    """Return what was delivered, when there is nothing left to do: a kill came after the video, or the folder was kept."""
    facts = folder.delivered(job.output)
    if facts is None or facts["frames"] != str(job.frames):
        return None
    sheet = job.output.with_suffix(".jpg") if job.render.contact_sheet_every_s else None
    if sheet is not None and not sheet.exists():
        return None
    return Rendered(job.output, facts["video_s"], facts["pictures"], 0, 0.0, sheet)
