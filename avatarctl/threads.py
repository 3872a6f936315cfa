"""Choose how many threads compute and how they wait, from what this process may really use; before torch is imported.

OpenMP reads its variables once, when torch loads it, so they are set when the package is imported: by the command line, the
workers of a batch, every process of a launcher, and a program that imports avatarctl before torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# What this package set: a child process tells by it that the number isn't the user's.
MARK = "_AVATARCTL_OMP_NUM_THREADS"
CPUS = Path("/sys/devices/system/cpu")
GROUPS, MOUNT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def choose() -> None:
    """Set ``OMP_NUM_THREADS`` and ``OMP_WAIT_POLICY`` in this process's environment where the user set neither.

    Threads that wait for each other sleep (``passive``): spinning, they take the cores from whatever else runs, and a render
    beside another busy program slows down five to nine times.
    """
    if "GOMP_SPINCOUNT" not in os.environ:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if not by_user():
        # Processes of a launcher share this machine.
        shared_by = os.environ.get("LOCAL_WORLD_SIZE", "1")
        count = max(usable_cores() // (int(shared_by) if shared_by.isdecimal() and int(shared_by) else 1), 1)
        os.environ["OMP_NUM_THREADS"] = os.environ[MARK] = str(count)


def by_user() -> bool:
    """Return whether the user, or a launcher, chose the number of threads."""
    threads = os.environ.get("OMP_NUM_THREADS")
    return threads is not None and threads != os.environ.get(MARK)


def usable_cores() -> int:
    """Return the cores that this process may use: physical ones of its CPUs, no more than its control group's quota."""
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = physical_cores(cpus)
    quota = cpu_quota()
    return max(cores if quota is None else min(cores, int(quota)), 1)


def physical_cores(cpus: set[int], root: Path = CPUS) -> int:
    """Return how many cores some logical CPUs belong to; where the system doesn't tell, each counts as one."""
    cores = set()
    for cpu in cpus:
        try:
            cores.add((root / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text(encoding="ascii").strip())
        except OSError:
            return len(cpus)
    return len(cores)


def cpu_quota(groups: Path = GROUPS, mount: Path = MOUNT) -> float | None:
    """Return the CPUs' worth of time that control groups grant this process, the least of all levels; None: no limit."""
    try:
        lines = groups.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    grants = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            roots = [mount]
        elif "cpu" in controllers.split(","):
            roots = [mount / controllers, mount / "cpu"]
        else:
            continue
        for root in roots:
            # In a container its own group may be the root of what is mounted.
            inner = Path(path.lstrip("/"))
            grants += [_grant(root / level) for level in (inner, *inner.parents)]
    return min((grant for grant in grants if grant is not None), default=None)


def _grant(folder: Path) -> float | None:
    """Return the quota of one control group, of version 2 or 1."""
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="ascii").strip()
            period = (folder / "cpu.cfs_period_us").read_text(encoding="ascii").strip()
        return int(quota) / int(period) if quota not in ("max", "-1") else None
    except (OSError, ValueError, ZeroDivisionError):
        return None


def count() -> int:
    """Return how many threads torch computes with in this process, or will once it is imported."""
    torch = sys.modules.get("torch")
    if torch is not None:
        return int(torch.get_num_threads())
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else usable_cores()


@contextmanager
def computing_with(wanted: int | None) -> Iterator[None]:
    """Let torch compute with so many threads; None leaves it as it is.

    Sums are rounded in another order with another number of threads, so a render that is resumed computes with as many as
    it began with, whatever this machine or ``OMP_NUM_THREADS`` would choose now.
    """
    import torch

    before = torch.get_num_threads()
    if wanted is None or wanted == before:
        yield
        return
    from avatarctl.console import note

    note(f"computing with {wanted} threads, as this render began, not with {before}: other sums, other bytes")
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)
