"""Render a job inside its folder: cheap checks first, then the work, then clean-up after success."""

from __future__ import annotations

import warnings
from dataclasses import replace
from shlex import quote
from typing import TYPE_CHECKING

from avatarctl import console, launcher
from avatarctl.errors import AvatarError, DeviceError, Ended, Interrupted, ProcessLost, UsageError
from avatarctl.interrupts import undoing
from avatarctl.networks import lean
from avatarctl.networks.devices import may_compile
from avatarctl.ownership import listed
from avatarctl.progress import Progress
from avatarctl.render.crop import frame, framing_in, framing_json
from avatarctl.render.delivered import facts_of_delivery, mark_delivered
from avatarctl.render.estimate import estimate
from avatarctl.render.folder import RenderFolder
from avatarctl.render.inputs import Rendered, as_begun, check, check_unchanged, manifest_of, replaced_by
from avatarctl.render.known import remember
from avatarctl.render.ours import COMPUTED, MANIFEST
from avatarctl.render.room import check_room, disks_of, needs_of
from avatarctl.settings.render import RenderJob
from avatarctl.threads import computing_with

if TYPE_CHECKING:
    from avatarctl.render.networks import LoadedNetworks
    from avatarctl.render.processes import Processes


def journey(job: RenderJob, force: bool, show: Progress, loaded: LoadedNetworks | None = None) -> Rendered | None:
    """Render a job; of several processes of a launcher the first leads. Return None in those that follow it.

    ``loaded``: networks of earlier renders in this process, which may serve again.
    """
    if not launcher.launched():
        return lead(job, force, show, loaded)
    from avatarctl.render.processes import Processes

    try:
        with Processes(job.folder) as processes:
            if processes.rank == 0:
                return lead(job, force, show, loaded, processes)
            processes.hear("begun")
            import_engine(job)
            from avatarctl.render.engine import run_follower

            run_follower(check(job, force), RenderFolder(job.folder, of_another=True), processes)
    except Ended as end:
        if end.exit_code:
            raise
    return None


def import_engine(job: RenderJob, passes: int | None = None) -> None:
    """Import what renders, as lean as the job allows; ``passes`` of the transformer, as far as they are known."""
    if not may_compile(job.placement.compile, job.placement.device, passes):
        lean.import_networks()
    import avatarctl.render.engine  # noqa: F401


def lead(
    job: RenderJob,
    force: bool,
    show: Progress,
    loaded: LoadedNetworks | None = None,
    processes: Processes | None = None,
) -> Rendered:
    """Check, begin or continue, render, deliver, clean up: in the process that owns folder and video."""
    if processes is not None and job.render.order == "steps":
        raise UsageError(
            f"order: got steps with {processes.size} processes, expected wavefront (in step order one window at a time "
            "can be computed)",
            "render with one process, or with order wavefront, which gives the same video",
        )
    checked = check(job, force)
    folder = RenderFolder(job.folder)
    for note in checked.notes:
        warnings.warn(note, stacklevel=2)
    if force:
        folder.check_all_ours()
    with folder.held():
        planned = None
        if checked.audio.duration_s is not None:  # else nobody knows before it is decoded
            planned = estimate(checked)
            check_room(disks_of(needs_of(job, planned, checked.audio)))
        begun = None if force else folder.note_of(MANIFEST)
        if begun is not None and (older := as_begun(checked, begun)) is not checked:
            console.note(
                f"{folder.path}: an older version began it with the middle of the picture, and so it is continued; "
                "--force begins again, around the face"
            )
            checked, job = older, older.job
        manifest = manifest_of(checked)
        if force or not folder.exists():
            folder.check_all_ours()
            manifest.update(
                framing_json(framing := frame(job))
            )  # the first that takes torch, and only where a face is framed
            if framing is not None:
                console.note(framing.words())
                for note in framing.warnings:
                    warnings.warn(note, stacklevel=2)
        if force:
            manifest["replaces"] = replaced_by(job)
            folder.clear()
        elif folder.exists() and (names := folder.foreign()):
            console.note(f"{folder.path}: {listed(names)} is not of this render and stays")
        fresh = not folder.exists()
        if fresh:
            folder.write_manifest(manifest)
            remember(folder.path)
            rendered = None
        else:
            check_unchanged(folder.manifest(), manifest, folder.path, job.accept_changes)
            rendered = already(job, folder)
        if rendered is None:
            show(0, 0, stage="loading")
            with undoing(lambda: folder.remove(and_folder=False) if fresh else None):
                if processes is not None:
                    processes.tell("begun")
                import_engine(job, planned.passes if planned else None)
                from avatarctl.render.engine import run

            try:
                with computing_with(folder.manifest().get("threads")):  # renders of older versions don't tell
                    rendered = run(checked, folder, show, loaded, processes, planned.passes if planned else 0)
            except AvatarError as error:
                # Where a hint says to resume, it says what.
                error.hint = error.hint.replace("`avatarctl resume`", f"`avatarctl resume {quote(str(folder.path))}`")
                if fresh and folder.exists() and failed_to_start(folder, error):
                    folder.remove(and_folder=False)
                raise
            if job.keep:
                folder.forget_damaged("windows")  # of a stretch whose pictures are encoded: of no use, and no damage
            facts = {"frames": str(job.frames), "video_s": rendered.video_s, "pictures": rendered.pictures}
            mark_delivered(folder, job.output, facts)
        framing = framing_in(folder.manifest())
        notes = (*checked.notes, *(framing.warnings if framing else ()))
        rendered = replace(rendered, framing=framing, notes=notes)
        if not job.keep:
            folder.remove()
    return rendered


def failed_to_start(folder: RenderFolder, error: AvatarError) -> bool:
    """Return whether nothing was computed yet that a resumed render could use: then nothing is left.

    Mistakes that show late, such as a LoRA of another network or a device that isn't there. A full disk, full memory, an
    interruption and a lost process are none: what is decoded by then is kept.
    """
    if any(folder.listed(name) for name in COMPUTED):
        return False
    full = isinstance(error, DeviceError) and isinstance(error.__cause__, OSError | RuntimeError | MemoryError)
    return not full and not isinstance(error, Interrupted | ProcessLost)


def already(job: RenderJob, folder: RenderFolder) -> Rendered | None:
    """Return what was delivered, when there is nothing left to do: a kill came after the video, or the folder was kept.

    A kept file that is damaged or missing is something to do: what `renders verify` names is computed again.
    """
    facts = facts_of_delivery(folder, job.output)
    if facts is None or facts["frames"] != str(job.frames):
        return None
    sheet = job.output.with_suffix(".jpg") if job.render.contact_sheet_every_s else None
    if sheet is not None and not sheet.exists():
        return None
    if job.keep and (damaged := folder.verify()[1]):
        console.note(f"{folder.path}: {listed(damaged)} damaged or missing, computing again")
        return None
    if job.keep:
        console.note(f"{job.output} is finished, and the files of its render are whole: nothing is left to do")
    return Rendered(job.output, facts["video_s"], facts["pictures"], 0, 0.0, sheet)
