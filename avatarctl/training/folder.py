"""A run folder: held by one run, with what it began with, and errors that say what to do."""

from __future__ import annotations

import importlib.metadata
import re
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from avatarctl import __version__, durable, ownership, threads
from avatarctl.errors import BusyError, InputFileError, UsageError
from avatarctl.settings.distill import STAGE
from avatarctl.settings.train import TrainJob
from avatarctl.settings.values import EXPORTS
from avatarctl.training import checkpoints, conditions, export, log
from avatarctl.training.changes import changed, check_shape, in_words, settings_of
from avatarctl.training.export import MANIFEST
from avatarctl.training.model import base_file, base_files
from avatarctl.weights import fingerprint

LOCK = "lock"
WORDS = ("save", "stop")
LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "peft")
# What lies in the folders of a run; anything else there is the user's.
OWN_BELOW = re.compile(
    r"checkpoints/\.?step-\d{8}(\.part)?|tensorboard/events\..*|exports/\.?step-\d{8}\.safetensors(\.\d+\.part)?|"
    r"validation/(weights|conditions|\.?step-\d{8}-\d{2}\..*|(transformer|lora)\.safetensors)"
)
OWN = (
    MANIFEST,
    export.LORA,
    export.TRANSFORMER,
    EXPORTS,
    LOCK,
    checkpoints.FOLDER,
    log.METRICS,
    log.CURVE,
    log.TABLE,
    log.EVENTS,
    conditions.FOLDER,
    *WORDS,
)


@contextmanager
def held(run: Path) -> Iterator[None]:
    """Hold a run folder for this process; raises ``BusyError`` when another one does."""
    with guarded(run):
        check_ours(run)
    with locked(run, run / MANIFEST):
        yield


@contextmanager
def locked(run: Path, begun: Path) -> Iterator[None]:
    """Hold a folder; raises ``BusyError`` when another process does. Without ``begun`` at the end it is left as it was."""
    with guarded(run):
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
        if not begun.exists():  # a start that failed leaves nothing
            (run / LOCK).unlink(missing_ok=True)
            ownership.remove_made(made)
        lock.release()


def prepare_run(job: TrainJob, force: bool) -> None:
    """Check a run's folder, and remove what a kill left half-written; with ``force`` everything of an earlier run."""
    run = job.output
    with guarded(run):
        if (run / MANIFEST).exists() and durable.unsealed(run / MANIFEST) is None and not force:
            raise InputFileError(f"{run}: {MANIFEST} is damaged", "start over: the same command with --force")
        for name in (export.TRANSFORMER, export.LORA):
            inputs = [("the weights to start from", file)] if (file := base_file(job.train)) else []
            ownership.check_no_input(run / name, "--output", inputs, named=run)
        if force:
            clear(run)
        checkpoints.sweep(run)
        for folder in (run, run / EXPORTS):
            for part in folder.glob(f".*{durable.PART}"):
                if ownership.own_part(part.name, lambda whole: whole in OWN or whole.startswith("step-")):
                    part.unlink()
        forget_words(run)


def forget_words(run: Path) -> None:
    """Remove words to a run that is over."""
    for name in WORDS:
        (run / name).unlink(missing_ok=True)


def said(run: Path, word: str) -> bool:
    """Return whether somebody has put a word (one of ``WORDS``) into a run's folder, or into its curriculum's."""
    return any((folder / word).exists() for folder in listening(run))


def listening(run: Path) -> list[Path]:
    """Return the folders in which words to a run may lie: its own, and that of a curriculum that it is a stage of."""
    return [run, run.parent] if is_stage(run) else [run]


def is_stage(run: Path) -> bool:
    """Return whether a run is a stage of a curriculum, which lies in its own folder."""
    return bool(re.fullmatch(STAGE, run.name)) and (run.parent / export.STAGES).exists()


def clear(run: Path) -> None:
    """Remove what an earlier run has left in its folder, and nothing else."""
    for name in OWN:
        if name != LOCK:
            _remove(run / name)


def note_run(job: TrainJob, checkpoint: checkpoints.Checkpoint | None, processes: int, data: Mapping[str, Any]) -> str:
    """Write the run's manifest, and return a note of what changed since its checkpoint: "" where nothing did.

    ``data``: hash and number of the samples to train on. Raises ``ChangedError`` for another shape than the checkpoint's.
    Where no step is saved, nothing is lost: the run begins with whatever it is given.
    """
    run = job.output
    manifest: dict[str, Any] = {
        "avatarctl": __version__,
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "data": [str(cache.resolve()) for cache in (job.data, *job.more_data)],
        "preset": job.preset,
        "train": settings_of(job.train),
        "base": fingerprint(base_files(job.train)),
    }
    with guarded(run):
        begun = durable.unsealed(run / MANIFEST) or {}
        notes: list[dict[str, Any]] = []
        text = ""
        if checkpoint is None:
            for video in (run / conditions.FOLDER).glob("step-*"):  # of weights that may have been others
                video.unlink()
        else:
            state = checkpoint.state
            was = state.get("train", begun.get("train", {}))
            sums = [_sums_of(each.get("base", {})) for each in (begun, manifest)]
            check_shape(was, manifest["train"], sums[0] if begun else sums[1], sums[1], run)
            found = changed(was, manifest["train"])
            if state["data"] != data["fingerprint"]:
                count = state.get("samples", "some")
                same = count == data["samples"]
                found["samples"] = (count, f"{data['samples']} others" if same else data["samples"])
            if state.get("processes", processes) != processes:
                found["processes"] = (state["processes"], processes)
            notes = [note for note in begun.get("changes", []) if note["from_step"] <= checkpoint.step]
            if found:
                text = in_words(checkpoint.step + 1, found)
                values = {name: {"was": before, "is": now} for name, (before, now) in found.items()}
                notes.append({"from_step": checkpoint.step + 1, "note": text, "changes": values})
        began = {"began": time.strftime("%Y-%m-%d %H:%M:%S"), "threads": threads.count(), **begun}
        began = {name: began[name] for name in ("began", "threads")}
        durable.replace(run / MANIFEST, durable.sealed({**manifest, **began, "changes": notes}))
    return text


def _sums_of(base: Mapping[str, Any]) -> str:
    """Return the hashes of what a run begins with, in one text."""
    return " ".join(str(base[name]["sha256"]) for name in sorted(base, reverse=True)) or "none"


def check_ours(run: Path) -> None:
    """Raise ``UsageError`` for a folder that holds something and is no run of ours."""
    if not run.is_dir() or _is_run(run):
        return
    lock = run / LOCK

    def own(name: str) -> bool:
        """Return whether a run that was killed before its manifest was there left this."""
        return (name == LOCK and not lock.stat().st_size) or ownership.own_part(name, lambda whole: whole == MANIFEST)

    refuse_foreign(run, own, "a run")


def refuse_foreign(folder: Path, own: Callable[[str], bool], what: str) -> None:
    """Raise ``UsageError`` for a folder that holds what isn't ours; ``own``: as :func:`ownership.foreign` takes it."""
    if names := ownership.foreign(folder, own):
        raise UsageError(
            f"{folder}: got a folder with other files ({ownership.listed(names)}), expected an empty one or {what}",
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


def guarded(run: Path) -> AbstractContextManager[None]:
    """Turn a full disk, a read-only folder and the like into errors that say what to do about a run."""
    return durable.guarded(
        run,
        full="free some space and run the same command again: it resumes from the last checkpoint",
        elsewhere="choose another --output",
    )


def threads_of(run: Path) -> int | None:
    """Return how many threads a run began with; None where its manifest is older and doesn't tell."""
    return (durable.unsealed(run / MANIFEST) or {}).get("threads")
