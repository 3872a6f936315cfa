"""Place a render on its device: choose what fits, try the largest moment before the first pass, step down when memory ends."""

from __future__ import annotations

import shlex
from typing import Any

import torch

from avatarctl import console
from avatarctl.errors import DeviceError
from avatarctl.networks.full import during, stage_of
from avatarctl.networks.memory import Fit, Workload, context_bytes
from avatarctl.networks.placement import Placement, decide, step_down
from avatarctl.networks.vae import DecodeStream
from avatarctl.render.folder import RenderFolder
from avatarctl.render.inputs import Checked
from avatarctl.render.networks import LoadedNetworks, Networks
from avatarctl.render.numbers import PLACEMENT_THAT_COUNTS, begun_with, decided_by, settle
from avatarctl.render.prepare import own_device
from avatarctl.settings.render import RenderJob

GIB = 2**30
TRIAL_FRAMES = 2  # the decoder is at its widest from the second one on


def place(
    checked: Checked, folder: RenderFolder, work: Workload, loaded: LoadedNetworks, processes: int = 1
) -> Placement:
    """Decide where and how a render computes, as it began where it has; note it in the folder and say it in a line.

    ``processes``: how many share it.
    """
    job = checked.job
    settings = own_device(job.placement)
    begun = begun_with(folder.manifest())
    before = loaded.placement_of(checked, settings, work)
    if before is None and settings.device != "cpu":
        loaded.clear()  # what is loaded for another render is in the way
    placement = decide(settings, work, begun, before)
    loaded.remember(checked, settings, work, placement)
    settle(job, folder, placement, processes)
    if placement.fit is not None:
        console.note(in_words(placement.fit, torch.cuda.get_device_name(placement.device)))
    return placement


def in_words(fit: Fit, device: str) -> str:
    """Return a memory mode and what it needs in words."""
    tiles = (
        "" if fit.tiling is None else f" and the VAE in tiles of {fit.tiling.columns_px}x{fit.tiling.size_px} pixels"
    )
    needs = f"{fit.estimate.peak / GIB:.1f} GiB calculated, {fit.free_bytes / GIB:.1f} GiB free on {device}"
    short = "" if fit.fits else "; this may not be enough: end other programs that use it, or choose a smaller --size"
    return f"memory: {fit.memory}{tiles} ({needs}{short})"


def try_decoding(networks: Networks, work: Workload) -> None:
    """Decode two latent frames of the real size with all that will be on the device, before hours of sampling.

    Raises what the first segment would raise. Only a GPU is tried.
    """
    placement, residency = networks.placement, networks.residency
    device = placement.device
    if device.type != "cuda":
        return
    with during("trial"):
        residency.use(networks.speech_encoder)
        residency.use(networks.transformer)
        ahead = placement.memory in ("full", "model")
        texts = 2 * context_bytes(work.dims, placement.dtype.itemsize) if ahead else 0  # come with the first pass
        held = torch.empty(texts, dtype=torch.uint8, device=device)
        vae = residency.use(networks.vae)
        frame = torch.zeros(1, vae.config.z_dim, 1, work.height // 8, work.width // 8)
        for _ in DecodeStream(vae, placement.tiling).run([frame] * TRIAL_FRAMES):
            pass
        torch.cuda.synchronize(device)
        del held
        residency.use(networks.transformer)


def lower(
    job: RenderJob, folder: RenderFolder, placement: Placement, work: Workload, error: BaseException
) -> Placement:
    """Return the placement to continue with after memory ran out, and note it; raises ``DeviceError`` where none is left."""
    stage: Any = stage_of(error)
    after = step_down(placement, job.placement, work, stage)
    if after is None:
        raise no_memory(job, error, placement) from error
    console.note(
        f"memory ran out while {STAGES[stage]} ({first_line(error)}): continuing with --memory {after.memory}"
        + (", decoding in turn with sampling" if after.memory == placement.memory == "full" else "")
        + ("" if after.tiling is None else f" and the VAE in {after.tiling.name(work.width, work.height)} tiles")
    )
    was, now = decided_by(job, placement), decided_by(job, after)
    changes = [f"{name}: was {was[name]}, is {now[name]}" for name in PLACEMENT_THAT_COUNTS if was[name] != now[name]]
    folder.event("memory ran out", stage=stage, memory=after.memory, changes=changes)
    if changes:
        begun = bool(folder.listed("segments") or folder.listed("windows"))
        told = {"accepted": [*folder.manifest().get("accepted", []), *changes]} if begun else {}
        folder.amend(decided=now, **told)
    return after


STAGES = {
    "conditions": "making the conditions",
    "sampling": "sampling",
    "decoding": "decoding",
    "trial": "trying to decode",
}


def first_line(error: BaseException) -> str:
    """Return what an error says, as far as a line of it goes."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def no_memory(job: RenderJob, error: BaseException, placement: Placement | None = None) -> DeviceError:
    """Return the error of a device whose memory is full and where nothing is left to try, with what helps."""
    folder = shlex.quote(str(job.folder))
    resume = f"avatarctl resume {folder}"
    stage = stage_of(error)
    ways = [f"end other programs that use the GPU and resume: {resume}"]
    frugal = placement is not None and placement.memory == "sequential"
    if not frugal and job.placement.memory != "sequential":
        ways.append(f"{resume} --memory sequential")
    if stage != "sampling" and job.placement.vae_tiling is False:
        ways.append(f"{resume} --vae-tiling --accept-changes")
    ways.append("or begin again, smaller: the same command with --force and --preset low-memory or a smaller --size")
    return DeviceError(
        f"the GPU's memory is full while {STAGES[stage]} ({first_line(error)}); what is done is kept", "; ".join(ways)
    )
