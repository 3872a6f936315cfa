"""Open the cache for given settings and weights: create, continue or refuse it; and its locks."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from avatarctl import durable, ownership
from avatarctl.data.shards import ABOUT, GREY, INDEX, NULL, SHARDS, read_about
from avatarctl.errors import BusyError, ChangedError, InputFileError, UsageError
from avatarctl.networks.header import WEIGHTS_HINT, refuse_damaged
from avatarctl.settings.encode import EncodeJob
from avatarctl.weights import find_weights, fingerprint, usable_separator

VERSION = 2
LOCKS, BEGINNING = "locks", "cache.lock"
OWN_NAME = re.compile(
    rf"{ABOUT}|{NULL}|{BEGINNING}|({SHARDS}|{INDEX}|{LOCKS}|{GREY})/|{GREY}/[\dx]+\.(safetensors|lock)|{SHARDS}/\d{{4}}-\d{{6,}}\.tar|"
    rf"{INDEX}/\d{{4}}\.(jsonl|lock)|{LOCKS}/[0-9a-f]{{3}}\.lock"
)


def encoder_files(job: EncodeJob) -> dict[str, Path]:
    """Find the weights of the frozen networks, role by role; raises ``WeightsError``."""
    # The transformer is the one network that samples don't depend on: any path will do for it.
    files = find_weights(
        job.weights, job.settings.sizes[0], "auto", Path(), "--preset puppet --weights puppet"
    ).by_role()
    del files["transformer"]
    for role, path in files.items():
        refuse_damaged(path, f"the {role}", WEIGHTS_HINT)
    if job.settings.separate_vocals:
        files["separator"] = usable_separator(job.weights)
    return files


def about(job: EncodeJob, weights: Mapping[str, Path]) -> dict[str, Any]:
    """Return what a cache notes of its making: settings, and the checksums of the weights."""
    return {"version": VERSION, "settings": job.settings.that_count(), "weights": fingerprint(weights.items())}


def recipe_of(noted: Mapping[str, Any]) -> str:
    """Return the hash of settings and weights, which every sample of a cache has in common."""
    weights = {role: file["sha256"] for role, file in noted["weights"].items()}
    return hashlib.sha256(json.dumps([noted["settings"], weights], sort_keys=True).encode()).hexdigest()


def check_same(cache: Path, new: Mapping[str, Any]) -> bool:
    """Return whether the cache is there; raises ``ChangedError`` naming what it was encoded with that is another now."""
    if not (cache / ABOUT).exists():
        _check_ours(cache)
        return False
    old = durable.unsealed(cache / ABOUT)
    if old is None:
        _check_ours(cache)
        raise InputFileError(f"{cache / ABOUT}: got a damaged file", "start over with --force")
    changes = []
    if old["version"] != new["version"]:
        raise ChangedError(
            f"{cache}: got a cache of form {old['version']}, which can be trained on, but only one of form {new['version']} "
            "can be continued",
            "encode the new clips into another --output, and train on both: --data A --data B; or start over with --force",
        )
    for name in sorted({*old["settings"], *new["settings"]}):
        was, now = (json.dumps(each["settings"].get(name), ensure_ascii=False) for each in (old, new))
        if was != now:
            changes.append(f"{name}: was {was}, is {now}")
    for role in sorted({*old["weights"], *new["weights"]}):
        before, after = (each["weights"].get(role, {}) for each in (old, new))
        if before.get("sha256") != after.get("sha256"):
            path = (after or before)["path"]
            was, now = (each.get("sha256", "absent")[:12] for each in (before, after))
            changes.append(f"{role} ({path}): sha256 was {was}, is {now}")
    if changes:
        raise ChangedError(
            f"{cache}: this cache was encoded with other settings or weights:\n  " + "\n  ".join(changes),
            "use the old ones, choose another --output, or start over with --force",
        )
    return True


def begin(job: EncodeJob, new: Mapping[str, Any], null_text: Callable[[], bytes]) -> None:
    """Make the cache ready to be written to, in one process at a time; ``null_text`` gives the file of null texts.

    What a kill left of a beginning is thrown away, and with ``force`` what the cache holds. Raises ``BusyError`` when it
    shall be thrown away and another process is writing to it.
    """
    cache = job.cache
    with guarded(cache):
        if job.force or not (cache / ABOUT).exists():
            _check_ours(cache)
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / BEGINNING):
            if job.force:
                _check_idle(cache)
                (cache / ABOUT).unlink(missing_ok=True)  # first: without it, nothing of the rest counts
            same = check_same(cache, new)
            if same and durable.digest(cache / NULL) == read_about(cache)["null_sha256"]:
                return
            for name in () if same else (SHARDS, INDEX, GREY):
                if (cache / name).exists():
                    shutil.rmtree(cache / name)
            states = null_text()
            durable.replace(cache / NULL, states)
            # Last: a cache that has it is complete.
            content = {**new, "null_sha256": hashlib.sha256(states).hexdigest()}
            durable.replace(cache / ABOUT, durable.sealed(content))


@contextmanager
def claimed(cache: Path, key: str, wait: bool) -> Iterator[bool]:
    """Hold the lock of a clip, so that one process at a time encodes it; gives False when it is held and not waited for.

    The kernel lets go of it when its process dies. Clips share 4096 locks: a cache of any size has so many files for them.
    """
    digest = hashlib.sha256(key.encode()).hexdigest()
    with guarded(cache):
        (cache / LOCKS).mkdir(exist_ok=True)
        lock = FileLock(cache / LOCKS / f"{digest[:3]}.lock")
        try:
            lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            yield False
            return
    try:
        yield True
    finally:
        lock.release()


def guarded(cache: Path) -> AbstractContextManager[None]:
    """Turn a full disk and an unwritable folder into errors that say what to do."""
    full = "free some space and run the same command again: what is encoded is kept"
    return durable.guarded(cache, full=full, elsewhere="choose another --output")


def _check_idle(cache: Path) -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("--force: got several processes, expected one", "start over with one process, then start all")
    for path in sorted((cache / INDEX).glob("*.lock")):
        try:
            with FileLock(path, timeout=0):
                pass
        except Timeout as error:
            raise BusyError(f"{cache}: another process is encoding into it", "stop that process first") from error


def _check_ours(cache: Path) -> None:
    """Refuse a folder that holds something else: it was named by mistake."""
    if cache.exists() and not cache.is_dir():
        raise InputFileError(f"{cache}: got a file, expected a folder for the samples", "choose another --output")
    # The lock of beginning is the first file of a cache, and stays in it.
    mark = cache / BEGINNING
    begun = durable.unsealed(cache / ABOUT) is not None or (mark.is_file() and not mark.stat().st_size)
    if other := ownership.foreign(cache, is_own if begun else lambda _: False):
        raise UsageError(
            f"{cache}: got a folder with other things in it ({ownership.listed(other)}), expected a cache or none",
            "choose another --output; nothing was touched",
        )


def is_own(name: str) -> bool:
    """Return whether a name (relative, with slashes; a folder's ends with one) is one that a cache has."""
    return _whole(name) or ownership.own_part(name, _whole)


def _whole(name: str) -> bool:
    return bool(OWN_NAME.fullmatch(name))
