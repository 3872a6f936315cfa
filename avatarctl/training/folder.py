"""A run folder: held by one run, with what it began with, and errors that say what to do."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shlex
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from avatarctl import __version__, durable, ownership, threads
from avatarctl.errors import BusyError, ChangedError, DeviceError, InputFileError, UsageError
from avatarctl.settings.train import FREE, TrainJob
from avatarctl.training import checkpoints, export, log, validate
from avatarctl.training.model import base_file
from avatarctl.weights import fingerprint

MANIFEST, LOCK = "run.json", "lock"
LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "peft")
# What lies in the folders of a run; anything else there is the user's.
OWN_BELOW = re.compile(
    r"checkpoints/\.?step-\d{8}(\.part)?|tensorboard/events\..*|"
    r"validation/(weights|\.?step-\d{8}-\d{2}\..*|(transformer|lora)\.safetensors)"
)
OWN = (
    MANIFEST,
    LOCK,
    checkpoints.FOLDER,
    log.METRICS,
    log.CURVE,
    log.TABLE,
    log.EVENTS,
    validate.FOLDER,
    "save",
    "stop",
)


@contextmanager
def held(run: Path) -> Iterator[None]:
    """Hold a run folder for this process; raises ``BusyError`` when another one does."""
    with guarded(run):
        check_ours(run)
        made = ownership.make_folder(run)
        lock = FileLock(run / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise BusyError(
                f"{run}: another process trains in it",
                f"wait for it, or stop it with: touch {shlex.quote(str(run / 'stop'))}",
            ) from error
    try:
        yield
    finally:
        if not (run / MANIFEST).exists():  # a start that failed leaves nothing
            (run / LOCK).unlink(missing_ok=True)
            ownership.remove_made(made)
        lock.release()


def begin_run(job: TrainJob, force: bool) -> None:
    """Write the run's manifest, or check that it goes on with what it began with. Removes what a kill left half-written."""
    run = job.output
    manifest = {
        "avatarctl": __version__,
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "data": str(job.data.resolve()),
        "train": json.loads(job.train.model_dump_json()),
        "base": fingerprint([("transformer", file)] if (file := base_file(job.train)) else []),
    }
    with guarded(run):
        begun = durable.unsealed(run / MANIFEST)
        if (run / MANIFEST).exists() and begun is None and not force:
            raise InputFileError(f"{run}: {MANIFEST} is damaged", "start over: the same command with --force")
        for name in (export.TRANSFORMER, export.LORA):
            inputs = [("the weights to start from", file)] if (file := base_file(job.train)) else []
            ownership.check_no_input(run / name, "--output", inputs, named=run)
        if force:
            for name in OWN:
                if name != LOCK:
                    _remove(run / name)
            begun = None
        if begun is not None:
            _check_unchanged(begun, manifest, run)
        checkpoints.sweep(run)
        for name in ("save", "stop"):  # words to a run that is over
            (run / name).unlink(missing_ok=True)
        # Rewritten when a run goes on: what is free to change is then as it is now.
        began = {"began": time.strftime("%Y-%m-%d %H:%M:%S"), "threads": threads.count(), **(begun or {})}
        began = {name: began[name] for name in ("began", "threads")}
        durable.replace(run / MANIFEST, durable.sealed({**manifest, **began}))


def check_ours(run: Path) -> None:
    """Raise ``UsageError`` for a folder that holds something and is no run of ours."""
    if not run.is_dir() or _is_run(run):
        return
    lock = run / LOCK

    def own(name: str) -> bool:
        """Return whether a run that was killed before its manifest was there left this."""
        return (name == LOCK and not lock.stat().st_size) or ownership.own_part(name, lambda whole: whole == MANIFEST)

    names = ownership.foreign(run, own)
    if names:
        raise UsageError(
            f"{run}: got a folder with other files ({ownership.listed(names)}), expected an empty one or a run",
            "choose another --output; nothing was touched",
        )


def _is_run(run: Path) -> bool:
    """Return whether a folder is a run of ours, also one whose manifest is damaged."""
    try:
        begun = (run / MANIFEST).read_bytes()
    except OSError:
        begun = b""
    states = (run / checkpoints.FOLDER).glob(f"step-*/{checkpoints.STATE}")
    return b'"avatarctl"' in begun or any(durable.unsealed(path) is not None for path in states)


def _remove(path: Path) -> None:
    """Remove a file of ours, or what is ours in a folder, and the folder unless something else is in it."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    for entry in path.iterdir():
        if not OWN_BELOW.fullmatch(f"{path.name}/{entry.name}"):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    if not any(path.iterdir()):
        path.rmdir()


def _check_unchanged(begun: Mapping[str, Any], now: Mapping[str, Any], run: Path) -> None:
    changes = []
    for name in sorted({*begun["train"], *now["train"]} - set(FREE) - {"weights"}):
        was, is_ = begun["train"].get(name), now["train"].get(name)
        if was != is_:
            changes.append(f"{name}: was {was}, is {is_}")
    sums = [each["base"].get("transformer", {}).get("sha256", "none") for each in (begun, now)]
    if sums[0] != sums[1]:
        changes.append(f"weights to start from: sha256 was {sums[0][:12]}, is {sums[1][:12]}")
    if changes:
        raise ChangedError(
            f"{run}: this run began with other settings:\n  " + "\n  ".join(changes),
            "give the old ones, train into another --output, or start over with --force",
        )


def guarded(run: Path) -> AbstractContextManager[None]:
    """Turn a full disk, a read-only folder and the like into errors that say what to do about a run."""
    return durable.guarded(
        run,
        full="free some space and run the same command again: it resumes from the last checkpoint",
        elsewhere="choose another --output",
    )


@contextmanager
def explained(job: TrainJob) -> Iterator[None]:
    """Turn a full device into an error that says what to change."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        ways = [
            "" if job.train.gradient_checkpointing else "gradient_checkpointing=true",
            "" if job.train.batch_size == 1 else "batch_size=1 with more accumulate",
            "" if job.train.base_dtype == "float8" or not job.train.is_lora else "base_dtype=float8",
            "optimizer=adamw8bit" if not job.train.is_lora else "a smaller rank, or audio=lora",
        ]
        raise DeviceError(
            f"device: out of memory ({str(error).splitlines()[0]})",
            f"set {' or '.join(way for way in ways if way)}; the run is resumed from its last checkpoint",
        ) from error


def threads_of(run: Path) -> int | None:
    """Return how many threads a run began with; None where its manifest is older and doesn't tell."""
    return (durable.unsealed(run / MANIFEST) or {}).get("threads")
