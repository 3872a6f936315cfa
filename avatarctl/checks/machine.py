"""Check Python, packages, ffmpeg, main memory, shared memory, disks and folders."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Literal

from avatarctl import paths
from avatarctl.checks.check import GIB, Check, gib
from avatarctl.fetching.sets import SETS
from avatarctl.networks.dims import WAN_VAE
from avatarctl.networks.memory import PARAMETERS

OLDEST_PYTHON = (3, 11)
SHARED_BYTES = GIB
# ffmpeg encoder -> whether every video needs it; the others are asked for by a setting.
# Encoder -> what can't be made without it; nothing can without the first two.
ENCODERS = {
    "libx264": "",
    "aac": "",
    "libx265": "--codec hevc",
    "libopus": "sound in .mkv and .webm",
    "libvpx-vp9": "--codec vp9",
    "libsvtav1": "--codec av1",
    "prores_ks": "--codec prores",
}
FFMPEG_FIX = "pip install --force-reinstall imageio-ffmpeg, and unset IMAGEIO_FFMPEG_EXE unless it names an ffmpeg"
SHARED = Path("/dev/shm")


def python(version: tuple[int, int, int] = sys.version_info[:3]) -> Check:
    """Check the version of Python."""
    text = ".".join(map(str, version))
    if version < OLDEST_PYTHON:
        wanted = ".".join(map(str, OLDEST_PYTHON))
        return Check("Python", "fail", f"{text} in {sys.prefix}", f"install Python {wanted} or newer")
    return Check("Python", "ok", f"{text} in {sys.prefix}", facts={"version": text})


def packages(requirements: list[str] | None = None) -> Check:
    """Check the version of every package that the program asks for (torch has rows of its own)."""
    try:
        from packaging.requirements import Requirement
    except ModuleNotFoundError:
        return Check("packages", "fail", "packaging: got not installed", "pip install packaging")
    if requirements is None:
        try:
            requirements = metadata.requires("avatarctl") or []
        except metadata.PackageNotFoundError:
            return Check("packages", "warn", "avatarctl runs from its source, not installed", "pip install -e .")
    wrong, fixes = [], []
    wanted = [Requirement(text) for text in requirements]
    wanted = [
        each for each in wanted if each.name != "torch" and (not each.marker or each.marker.evaluate({"extra": ""}))
    ]
    for each in wanted:
        try:
            version = metadata.version(each.name)
        except metadata.PackageNotFoundError:
            version = "not installed"
        if version == "not installed" or not each.specifier.contains(version, prereleases=True):
            wrong.append(f"{each.name}: got {version}, expected {each.specifier or 'any version'}")
            fixes.append(f"'{each.name}{each.specifier}'")
    if wrong:
        return Check("packages", "fail", "; ".join(wrong), f"pip install {' '.join(fixes)}")
    return Check("packages", "ok", f"{len(wanted)}, all of a version that fits")


def ffmpeg() -> Check:
    """Check that the ffmpeg of imageio-ffmpeg runs and encodes what videos need."""
    try:
        import imageio_ffmpeg

        program = imageio_ffmpeg.get_ffmpeg_exe()
        command = [program, "-hide_banner", "-encoders"]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60, check=True)
        banner = subprocess.run(
            [program, "-version"], capture_output=True, text=True, errors="replace", timeout=60, check=True
        )
    except (RuntimeError, ImportError, OSError, subprocess.SubprocessError) as error:
        return Check("ffmpeg", "fail", f"doesn't run: {str(error).splitlines()[0]}", FFMPEG_FIX)
    version = re.match(r"ffmpeg version (\S+)", banner.stdout)
    about = f"{version.group(1) if version else 'unknown version'} ({program})"
    there = set(re.findall(r"^\s*[VAS]\S{5}\s+(\S+)", done.stdout, re.MULTILINE))
    missing = [name for name in ENCODERS if name not in there]
    facts = {"program": program, "encoders": sorted(there & set(ENCODERS))}
    if any(not ENCODERS[name] for name in missing):
        return Check("ffmpeg", "fail", f"{about} can't encode {', '.join(missing)}", FFMPEG_FIX, facts=facts)
    if missing:
        lost = ", ".join(ENCODERS[name] for name in missing)
        return Check("ffmpeg", "warn", f"{about} can't encode {', '.join(missing)}: no {lost}", FFMPEG_FIX, facts=facts)
    return Check("ffmpeg", "ok", f"{about} with {', '.join(ENCODERS)}", facts=facts)


def available_bytes(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the main memory that a process can still take: the machine's, or less in a container; None if unknown."""
    found = []
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        found.append(int(lines["MemAvailable"].split()[0]) * 1024)
    except (OSError, KeyError, ValueError):
        return None  # no Linux
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        if limit != "max":
            found.append(max(int(limit) - int((cgroup / "memory.current").read_text()), 0))
    except (OSError, ValueError):
        pass  # no container of this kind
    return min(found)


def main_memory(free: int | None) -> Check:
    """Check that the largest network, umT5 in bfloat16, fits into ``free`` bytes: it lies there where the GPU is too small."""
    need = 2 * PARAMETERS["text encoder"]
    if free is None:
        return Check("main memory", "ok", f"unknown on this system; the text encoder umT5 takes {gib(need)}")
    facts = {"available_bytes": free, "needed_bytes": need}
    if free < need:
        found = f"{gib(free)} available, {gib(need)} needed by the text encoder umT5"
        return Check("main memory", "warn", found, "end other programs, or add swap", facts=facts)
    return Check("main memory", "ok", f"{gib(free)} available", facts=facts)


def shared_memory(folder: Path = SHARED) -> list[Check]:
    """Check the shared memory that several GPUs talk through; nothing where a system has none."""
    if not folder.is_dir():
        return []
    free = shutil.disk_usage(folder).free
    facts = {"free_bytes": free}
    if free < SHARED_BYTES:
        found = f"{gib(free)} free in {folder}: several GPUs may not be able to talk to each other"
        return [Check("shared memory", "warn", found, "run the container with --shm-size=2g", facts=facts)]
    return [Check("shared memory", "ok", f"{gib(free)} free in {folder}", facts=facts)]


def hour_bytes() -> int:
    """Bytes of latents in the render folder of an hour of 512x512 at 25 pictures per second, four in a latent frame."""
    return 3600 * 25 // 4 * WAN_VAE.z_dim * (512 // 8) ** 2 * 4


def disks(weights: Path, weights_there: bool, here: Path) -> list[Check]:
    """Check the room for weights that are still to come and for render folders."""
    to_come = 0 if weights_there else SETS[0].about_bytes  # what `avatarctl fetch --list` tells
    return [
        _disk("disk for weights", weights, to_come, "the weights take", "set AVATARCTL_WEIGHTS to a folder elsewhere"),
        _disk("disk for renders", here, hour_bytes(), "an hour at 512x512 takes", "use --output on another disk"),
    ]


def _disk(name: str, folder: Path, need: int, use: str, fix: str) -> Check:
    free = shutil.disk_usage(standing(folder)).free
    facts = {"folder": str(folder), "free_bytes": free, "needed_bytes": need}
    found = f"{gib(free)} free in {folder}"
    if free < need:
        return Check(name, "warn", f"{found}; {use} at least {gib(need)}", f"free some space, or {fix}", facts=facts)
    return Check(name, "ok", found, facts=facts)


def folders(here: Path) -> Check:
    """Check that the folders of the program and the working folder can be written, or made."""
    wanted = {
        "settings": paths.config_folder(),
        "cache": paths.cache_folder(),
        "data": paths.data_folder(),
        "working folder": here,
    }
    wrong = {}
    for use, folder in wanted.items():
        there = standing(folder)
        if not there.is_dir():
            wrong[use] = f"{use} {folder}: {there} is a file"
        elif not os.access(there, os.W_OK | os.X_OK):
            wrong[use] = f"{use} {folder}: can't be written"
    if wrong:
        # A cache only saves time, and a render may be written elsewhere.
        state: Literal["warn", "fail"] = "fail" if {"settings", "data"} & set(wrong) else "warn"
        fix = "set AVATARCTL_HOME to a folder that can be written, and work in one"
        return Check("folders", state, "; ".join(wrong.values()), fix)
    return Check("folders", "ok", ", ".join(f"{use} in {folder}" for use, folder in wanted.items()))


def standing(path: Path) -> Path:
    """Return the nearest of a path and its parents that is there."""
    path = path.absolute()
    # os.path: what lies in a folder that can't be read counts as not there, it is no error.
    return next(each for each in (path, *path.parents) if os.path.exists(each))  # noqa: PTH110
