"""Keep a video in the same numbers to its end: what they depend on is noted in render.json, and refused when it changes.

What was decided (dtype, attention, compile, float8 weights, tiles) changes pictures where a render continues with something
else: it is refused, unless the user accepts it. Another device of the same kind or another version of a library rounds
differently at most: that is told and noted in the events.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from shlex import quote
from typing import TYPE_CHECKING, Any

from avatarctl import console
from avatarctl.errors import ChangedError
from avatarctl.render.folder import RenderFolder
from avatarctl.settings.render import RenderJob

if TYPE_CHECKING:
    import torch

    from avatarctl.networks.placement import Placement

LIBRARIES = ("torch", "diffusers", "transformers", "numpy", "soxr", "imageio-ffmpeg")
# Placement that changes the numbers; the rest (device, memory mode …) may differ when a render is resumed.
PLACEMENT_THAT_COUNTS = (
    "dtype",
    "weights_dtype",
    "matmul_dtype",
    "attention",
    "compile",
    "vae_dtype",
    "vae_tiling",
)
# What renders of older versions computed with, whose manifests don't tell.
BEFORE = {"memory": "full", "matmul_dtype": "same", "compile": False, "vae_dtype": "float32", "vae_tiling": False}
HELD = ("attention", "compile", "vae_dtype", "vae_tiling")  # left open, they stay as a render began
DEVICE = ("device", "device_name")


def versions() -> dict[str, str]:
    """Return the versions of the libraries that compute."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


def changed_placement(old: Mapping[str, Any], was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the settings of placement that count and differ, from settings alone: without torch.

    ``old``: the manifest. Where a setting names what was decided then, or leaves it to be decided, nothing differs yet:
    :func:`settle` sees what it comes to.
    """
    decided = begun_with(old)
    changes = []
    for name in PLACEMENT_THAT_COUNTS:
        same = name in decided and now.get(name) in ("auto", decided[name])
        same = same or (name in HELD and now.get(name) == "auto") or (now.get(name) is True and bool(decided.get(name)))
        if was.get(name) != now.get(name) and not same:
            changes.append(f"{name}: was {decided.get(name, was.get(name))}, is {now.get(name)}")
    return changes


def begun_with(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was decided when a render began; of a render of an older version, what is known of that."""
    known = manifest.get("decided") or manifest["job"]["placement"]
    older = {name: BEFORE[name] for name in PLACEMENT_THAT_COUNTS if name in BEFORE and name not in known}
    return {**older, **(manifest.get("decided") or _chosen(manifest))}


def decided_by(job: RenderJob, placement: Placement, processes: int = 1) -> dict[str, Any]:
    """Return what was decided for this machine and the numbers depend on, as render.json holds it."""
    batch = job.render.window_batch
    batched = batch != 1 and (batch != "auto" or placement.device.type == "cuda")
    return {
        "dtype": str(placement.dtype).removeprefix("torch."),
        "weights_dtype": "float8" if placement.float8 else "same",
        "matmul_dtype": "float8" if placement.float8_matmul else "same",
        "attention": placement.attention or "auto",
        "compile": placement.compile,
        "vae_dtype": str(placement.vae_dtype).removeprefix("torch."),
        "vae_tiling": _tiles(job, placement),
        "device": placement.device.type,
        "device_name": _device_name(placement.device),
        # Which windows share a pass depends on how many processes share the windows, and the last bits on that.
        **({"processes": processes} if batched else {}),
    }


def settle(job: RenderJob, folder: RenderFolder, placement: Placement, processes: int = 1) -> None:
    """Note what this render computes with, or compare it with what it began with; raises ``ChangedError``.

    With the job's ``accept_changes`` what differs is noted, in the events and for the record in the video, and counts from
    now on.
    """
    manifest, now = folder.manifest(), decided_by(job, placement, processes)
    was = begun_with(manifest)
    changes = _differences(was, now, (*PLACEMENT_THAT_COUNTS, "processes"))
    if changes and not job.accept_changes:
        raise ChangedError(
            f"{folder.path}: this render began with other numbers:\n  " + "\n  ".join(changes),
            f"avatarctl resume {quote(str(folder.path))} --accept-changes continues with these, and notes it in the video; "
            "or resume it where it began",
        )
    told = _differences(was, now, DEVICE) + _differences(manifest["libraries"], versions(), LIBRARIES)
    for kind, what, differs in (("accepted", "other numbers", changes), ("elsewhere", "another machine", told)):
        if differs:
            folder.event(kind, changes=differs)
            console.note(f"{folder.path}: continues with {what}: {'; '.join(differs)}")
    if changes:
        settings = {name: job.placement.model_dump(mode="json")[name] for name in PLACEMENT_THAT_COUNTS}
        content = manifest["job"]
        folder.amend(
            decided=now,
            accepted=[*manifest.get("accepted", []), *changes],
            job={**content, "placement": {**content["placement"], **settings}},
        )
    elif "decided" not in manifest:
        folder.amend(decided=now)


def _chosen(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of placement that count and left nothing to decide."""
    placement = manifest["job"]["placement"]
    chosen = {name: placement[name] for name in PLACEMENT_THAT_COUNTS if placement.get(name, "auto") != "auto"}
    if "vae_dtype" in placement and chosen.get("vae_tiling") is True:
        del chosen["vae_tiling"]  # how many tiles is still to be decided; in older versions it wasn't
    return chosen


def _tiles(job: RenderJob, placement: Placement) -> bool | str:
    """Return the tiles of the VAE as a manifest notes them: none, rows and columns, or true for those of older versions."""
    tiling = placement.tiling
    return False if tiling is None else True if tiling.width_px is None else tiling.name(*job.render.size)


def _differences(was: Mapping[str, Any], now: Mapping[str, Any], names: tuple[str, ...]) -> list[str]:
    return [
        f"{name}: was {was[name]}, is {now[name]}"
        for name in names
        if name in was and name in now and was[name] != now[name]
    ]


def _device_name(device: torch.device) -> str:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return torch.backends.cpu.get_cpu_capability()  # which instructions sums are computed with
