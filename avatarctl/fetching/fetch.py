"""Bring a set of weights into a folder: find what is missing, download, compare and record it."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import try_to_load_from_cache

from avatarctl import console, durable
from avatarctl.errors import DeviceError, UsageError, WeightsError
from avatarctl.fetching import hub, record
from avatarctl.fetching.at_once import Stopped, Work
from avatarctl.fetching.link import link
from avatarctl.fetching.record import ELSEWHERE, MAKE_ROOM, Fetched, Record
from avatarctl.fetching.sets import WeightSet, choose, converted
from avatarctl.fetching.transfer import matches, receive, through_hub
from avatarctl.networks.header import damage
from avatarctl.progress import Progress
from avatarctl.weights import checksum, remember_checksum

PARTS = ".parts"  # what was received of files that aren't whole yet; named by content and path
MB = 10**6
EVERY_S, SPEED_OVER_S = 0.5, 10.0
FILES_AT_ONCE = 4
AGAIN = "run the same command again; if it happens again, something between here and the hub changes files"
How = Literal["there", "found", "cached", "download"]


@dataclass(frozen=True)
class Step:
    """What is to be done for one file: nothing, take note of it, link it out of the hub's cache, or download it."""

    remote: hub.Remote
    how: How
    sha256: str = ""  # of what was found or is cached
    cached: Path | None = None


@dataclass(frozen=True)
class Plan:
    """What a set needs at one commit, and how each file gets there."""

    weight_set: WeightSet
    commit: str
    steps: tuple[Step, ...]

    def to_json(self) -> dict[str, Any]:
        """Return what people and scripts want to know before it is done."""
        to_do = sum(step.remote.size for step in self.steps if step.how == "download")
        files = [{"path": step.remote.path, "bytes": step.remote.size, "how": step.how} for step in self.steps]
        return {"revision": self.commit, "bytes": to_do, "files": files}


def plan(weight_set: WeightSet, folder: Path, known: Record | None, revision: str | None, force: bool) -> Plan:
    """Ask the hub what the set consists of and compare with what is in the folder.

    ``revision`` None: what was fetched or begun before, so that all files are of one commit. Raises ``WeightsError``
    for what the hub answers, ``UsageError`` where a file that isn't ours is in the way (``force`` replaces it).
    """
    asked = revision or (known.revision if known else "") or weight_set.revision
    commit, remotes = hub.list_files(weight_set.repo, asked, weight_set.below)
    by_path = {remote.path: remote for remote in remotes}
    needed: list[hub.Remote] = []
    if weight_set.alone and len(several := choose(weight_set.parts[0], by_path)) > 1:
        names = [by_path[path].name for path in several]
        raise UsageError(
            f"{weight_set.repo}: has {len(names)} files of weights ({', '.join(names[:8])}), expected the name of one",
            f"avatarctl fetch {weight_set.name}/{names[0]}",
        )
    for part in weight_set.parts:
        if not (paths := choose(part, by_path)):
            raise WeightsError(
                f"{weight_set.repo} at {commit[:12]}: has no {part.role} ({' or '.join(part.patterns)})",
                "avatarctl fetch --revision main, or update avatarctl",
            )
        needed += [by_path[path] for path in paths]
    return Plan(weight_set, commit, tuple(_step(weight_set, folder, known, commit, each, force) for each in needed))


def _step(
    weight_set: WeightSet, folder: Path, known: Record | None, commit: str, remote: hub.Remote, force: bool
) -> Step:
    if known is not None and _is_current(known, folder, remote):
        return Step(remote, "there")
    path = folder / remote.path
    if path.exists():
        if sha256 := matches(path, remote):
            return Step(remote, "found", sha256)
        # What was fetched and is whole but another file now was put there by the user.
        ours = (
            known is not None
            and remote.path in known.files
            and (remote.path in known.damaged or not _replaced(path, known.files[remote.path]))
        )
        if not (ours or force):
            raise UsageError(
                f"{path}: got another file than {weight_set.repo} has at {commit[:12]}",
                "--force replaces it; or name another folder with --weights",
            )
    cached = try_to_load_from_cache(weight_set.repo, remote.name, revision=commit)
    if isinstance(cached, str) and (blob := Path(cached).resolve()).is_file() and (sha256 := matches(blob, remote)):
        return Step(remote, "cached", sha256, blob)
    return Step(remote, "download")


def _replaced(path: Path, fetched: Fetched) -> bool:
    """Return whether a whole file stands where another one was fetched."""
    return not damage(path) and checksum(path) != fetched.sha256


def _is_current(known: Record, folder: Path, remote: hub.Remote) -> bool:
    """Return whether what the record has for this path is, or was made of, the bytes that the hub tells of."""
    serves = known.serves(folder, remote.path)
    if serves is None:
        return False
    if serves != remote.path:  # converted: an original that is unknown, or has another kind of hash, can't be compared
        origin = known.files[serves].origin_sha256
        return not origin or remote.sha256 in (None, origin)
    if remote.sha256 is not None:
        return known.files[serves].sha256 == remote.sha256
    # Of small files the hub tells another hash: their bytes are read.
    return matches(folder / serves, remote) is not None


def carry_out(todo: Plan, folder: Path, records: dict[str, Record], show: Progress) -> None:
    """Bring every file to its place, several at once, and note each in the record as soon as it is there.

    Raises ``WeightsError`` for what the hub answers and for bytes that aren't those it tells of, ``DeviceError`` when
    there is no room. Whatever it raises, the same call goes on.
    """
    _check_room(todo, folder)
    name = todo.weight_set.name
    entry = records.setdefault(name, Record(todo.weight_set.repo, todo.commit))
    # Written before the first byte: what is begun at a commit is ended at it.
    entry.revision, entry.needed = todo.commit, [step.remote.path for step in todo.steps]
    record.write(folder, records)
    meter = Meter(todo, folder / PARTS / name, show)

    def bring(step: Step, stopped: threading.Event) -> tuple[str, str]:
        return _bring(todo, step, folder, meter, stopped)

    work = Work([step for step in todo.steps if step.how != "there"], bring, FILES_AT_ONCE)
    for step, (sha256, source) in work.results():
        remote, target = step.remote, folder / step.remote.path
        entry.put(remote.path, remote.size, sha256, source)
        remember_checksum(target, sha256)
        _drop_stale(folder, entry, remote.path, sha256)
        record.write(folder, records)
    drop_parts(folder, name)  # of an older revision


def _bring(todo: Plan, step: Step, folder: Path, meter: Meter, stopped: threading.Event) -> tuple[str, str]:
    """Bring one file to its place; return its SHA-256, and whether it is from the hub or linked to the hub's cache."""
    remote, target = step.remote, folder / step.remote.path
    repo, commit = todo.weight_set.repo, todo.commit

    def received(more: int) -> None:
        if stopped.is_set():
            raise Stopped
        meter.received(more, remote.path)

    with durable.guarded(target, MAKE_ROOM, ELSEWHERE):
        target.parent.mkdir(parents=True, exist_ok=True)
        cached, sha256 = step.cached, step.sha256
        if step.how == "download" and (cached := through_hub(repo, commit, remote, received)) is not None:
            sha256 = _compared(cached, remote)
            meter.arrived(remote)
        if cached is not None:
            link(cached, target)
            return sha256, "cache"
        if step.how == "download":
            part = _part(folder / PARTS / todo.weight_set.name, remote)
            part.parent.mkdir(parents=True, exist_ok=True)
            receive(repo, commit, remote, part, received)
            sha256 = _install(part, target, remote)
    return sha256, "hub"


def _compared(path: Path, remote: hub.Remote) -> str:
    """Return the SHA-256 of a file in the hub's cache; raises ``WeightsError`` for other bytes than the hub tells of."""
    console.note(f"{remote.path}: received, comparing its hash")
    if (sha256 := matches(path, remote)) is None:
        path.unlink()
        raise WeightsError(
            f"{remote.path}: got {remote.size} bytes with another hash than the hub tells, discarded", AGAIN
        )
    return sha256


def drop_parts(folder: Path, name: str) -> None:
    """Remove what was received of files of a set that never became whole."""
    if (folder / PARTS / name).exists():
        shutil.rmtree(folder / PARTS / name)
    if (folder / PARTS).exists() and not any((folder / PARTS).iterdir()):
        (folder / PARTS).rmdir()


def _install(part: Path, target: Path, remote: hub.Remote) -> str:
    """Compare what was received, put it in its place only if it is what the hub tells of, and give its SHA-256."""
    if not part.exists():
        part.touch()  # a file of no bytes: nothing was received
    console.note(f"{remote.path}: received, comparing its hash")
    if (sha256 := matches(part, remote)) is None:
        part.unlink()
        raise WeightsError(
            f"{remote.path}: got {remote.size} bytes with another hash than the hub tells ({remote.content[:12]}…), "
            "discarded",
            AGAIN,
        )
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(target)
    durable.flush_folder(target.parent)
    return sha256


def _drop_stale(folder: Path, entry: Record, path: str, sha256: str) -> None:
    """Remove what was converted from an older version of a file: it would be loaded in its place."""
    made = converted(path)
    if made != path and made in entry.files and entry.files[made].origin_sha256 != sha256:
        if (folder / made).is_file() and _replaced(folder / made, entry.files[made]):
            raise UsageError(
                f"{folder / made}: got another file than was converted, and it would be loaded in place of {path}",
                "move it elsewhere, and run the same command again",
            )
        (folder / made).unlink(missing_ok=True)
        del entry.files[made]


def _check_room(todo: Plan, folder: Path) -> None:
    parts = folder / PARTS / todo.weight_set.name
    downloads = [step.remote for step in todo.steps if step.how == "download"]
    needed = sum(remote.size - _received(parts, remote) for remote in downloads)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DeviceError(
            f"{folder}: got {free / MB:,.1f} MB of free disk, expected {needed / MB:,.1f} MB for "
            f"{len(downloads)} files of {todo.weight_set.name}",
            MAKE_ROOM,
        )


def _part(parts: Path, remote: hub.Remote) -> Path:
    """Return where a file is received; files of the same content are received side by side, so the path counts too."""
    return parts / f"{remote.content}.{hashlib.sha256(remote.path.encode()).hexdigest()[:8]}.part"


def _received(parts: Path, remote: hub.Remote) -> int:
    part = _part(parts, remote)
    return part.stat().st_size if part.exists() else 0


class Meter:
    """Counts the bytes of several downloads at once, and shows how many there are, how fast they come and how long it takes."""

    def __init__(self, todo: Plan, parts: Path, show: Progress) -> None:
        downloads = [step.remote for step in todo.steps if step.how == "download"]
        self._show, self._lock = show, threading.Lock()
        self._total = sum(remote.size for remote in downloads)
        self._before = {remote.path: _received(parts, remote) for remote in downloads}
        self._done = sum(self._before.values())
        self._of_file = dict(self._before)
        self._last = time.monotonic()
        self._lately: deque[tuple[float, int]] = deque([(self._last, self._done)], maxlen=round(SPEED_OVER_S / EVERY_S))

    def received(self, more: int, name: str) -> None:
        """Count bytes of a file; fewer than none, when some had to be discarded."""
        with self._lock:
            self._done += more
            self._of_file[name] += more
            now = time.monotonic()
            if now - self._last >= EVERY_S or self._done >= self._total:
                self._last = now
                self._tell(now, name)

    def arrived(self, remote: hub.Remote) -> None:
        """Count what is missing of a file that is there: the hub's library doesn't send twice what it has."""
        self.received(remote.size - self._of_file[remote.path], remote.path)

    def _tell(self, now: float, name: str) -> None:
        then, before = self._lately[0]
        self._lately.append((now, self._done))
        speed = max((self._done - before) / (now - then), 0.0) if now > then else 0.0
        facts: dict[str, Any] = {
            "bytes": self._done,
            "of_bytes": self._total,
            "fraction": self._done / self._total if self._total else 1.0,
            "name": name,
        }
        if speed:
            left_s = round((self._total - self._done) / speed, 1)
            facts |= {"bytes_per_s": round(speed), "left_s": left_s}
        self._show(round(self._done / MB), round(self._total / MB), stage="receiving", **facts)
