"""A dry run: check everything that the start of a render checks, and what it would meet later, without writing anything.

What it raises is what the render would raise, so that both end with the same exit code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from avatarctl.audio.decode import read_blocks
from avatarctl.errors import BusyError
from avatarctl.networks.cards import Card
from avatarctl.render.crop import Framing, frame_apart, framing_in, require_face
from avatarctl.render.estimate import Estimate, estimate
from avatarctl.render.folder import RenderFolder
from avatarctl.render.inputs import Checked, as_begun, check, check_unchanged, exact, manifest_of
from avatarctl.render.machine import Here
from avatarctl.render.room import Disk, check_room, disks_of, needs_of
from avatarctl.sampling.windows import SAMPLE_RATE_HZ
from avatarctl.settings.placement import PlacementSettings
from avatarctl.settings.render import RenderJob


@dataclass(frozen=True)
class Rehearsal:
    """A render that can begin: its checked inputs, what it will take, the disks that it writes to, how its picture is framed."""

    checked: Checked
    planned: Estimate
    disks: tuple[Disk, ...]
    framing: Framing | None = None


def rehearse(job: RenderJob, force: bool = False, card: Card | None = None) -> Rehearsal:
    """Check a job as a start would; raises what the render would raise.

    Time is calculated for this machine, or for a published ``card``.
    """
    checked = check(job, force)
    check_folder(checked, force)
    return replace(rehearse_checked(checked, card or Here()), framing=framing_of(job, force))


def framing_of(job: RenderJob, force: bool = False) -> Framing | None:
    """Return how the picture of a job is framed: as its render folder says, else as it would be."""
    folder = RenderFolder(job.folder)
    if folder.exists() and not force:
        return framing_in(folder.manifest())
    [framing] = frame_apart([job])
    return None if framing is None else require_face(framing, job)


def rehearse_checked(checked: Checked, where: Card | Here | None = None) -> Rehearsal:
    """Check what a render meets after its start: the sound to its end, LoRAs, the device, room on the disks.

    ``where``: the machine that time is calculated for, None: no calculation.
    """
    planned = estimate(checked, samples_of(checked), where)
    disks = disks_of(needs_of(checked.job, planned, checked.audio))
    check_room(disks)
    if not isinstance(where, Card):
        check_device(checked.job.placement)
    check_loras(checked)
    return Rehearsal(checked, planned, tuple(disks))


def check_folder(checked: Checked, force: bool) -> None:
    """Check the render folder as a start does: whose it is, who works in it, and whether it began with the same inputs."""
    folder = RenderFolder(checked.job.folder)
    folder.check_ours()
    if force or not folder.exists():
        folder.check_all_ours()
    if not folder.exists():
        return
    if folder.busy():
        raise BusyError(f"{folder.path}: another process renders in it", "wait for it, or stop that process")
    if not force:
        begun = folder.manifest()
        check_unchanged(begun, manifest_of(as_begun(checked, begun)), folder.path)


def samples_of(checked: Checked) -> int:
    """Decode the stretch of the recording that is used, and count its samples at 16 kHz; raises what decoding raises."""
    settings = checked.job.render
    duration = None if settings.duration_s is None else exact(settings.duration_s)
    rate_hz, _, blocks = read_blocks(checked.job.audio, exact(settings.start_s), duration)
    return max(round(sum(len(block) for block in blocks) * SAMPLE_RATE_HZ / rate_hz), 1)


def check_device(settings: PlacementSettings) -> None:
    """Raise an error for a device that is asked for and isn't there, or can't do what is asked of it."""
    plain = PlacementSettings(device=settings.device, memory=settings.memory, vae_tiling=settings.vae_tiling)
    if settings.device in ("auto", "cpu") and settings == plain:
        return
    from avatarctl.networks.placement import decide  # needs torch

    decide(settings)


def check_loras(checked: Checked) -> None:
    """Raise ``WeightsError`` for a LoRA that doesn't fit the transformer."""
    if not checked.job.lora:
        return
    from avatarctl.networks.adapters import check_lora_fits  # needs torch

    for path, _ in checked.job.lora:
        check_lora_fits(path, Path(checked.weights.transformer))
