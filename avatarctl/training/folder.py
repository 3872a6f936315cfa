"""A run folder: held by one run, with what it began with, and errors that say what to do."""

from __future__ import annotations

import importlib.metadata
import json
import shlex
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from avatarctl import __version__, durable, threads
from avatarctl.errors import BusyError, ChangedError, DeviceError, InputFileError, UsageError
from avatarctl.settings.train import FREE, TrainJob
from avatarctl.training import checkpoints, log, validate
from avatarctl.training.model import base_file
from avatarctl.weights import fingerprint

MANIFEST, LOCK = "run.json", "lock"
LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "peft")
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
        run.mkdir(parents=True, exist_ok=True)
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
            raise InputFileError(f"{run}: {MANIFEST} is damaged", "begin anew: the same command with --force")
        if begun is None and not force and (strangers := _strangers(run)):
            raise UsageError(
                f"{run}: got a folder with other files ({', '.join(strangers[:5])}), expected an empty one or a run",
                "choose another --output",
            )
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


def _strangers(run: Path) -> list[str]:
    return sorted(entry.name for entry in run.iterdir() if entry.name not in OWN and durable.PART not in entry.name)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


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
            "give the old ones, train into another --output, or begin anew with --force",
        )


def guarded(run: Path) -> AbstractContextManager[None]:
    """Turn a full disk, a read-only folder and the like into errors that say what to do about a run."""
    return durable.guarded(
        run,
        full="free some space and run the same command again: it goes on from the last checkpoint",
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
            f"set {' or '.join(way for way in ways if way)}; the run goes on from its last checkpoint",
        ) from error


def threads_of(run: Path) -> int | None:
    """Return how many threads a run began with; None where its manifest is older and doesn't tell."""
    return (durable.unsealed(run / MANIFEST) or {}).get("threads")
