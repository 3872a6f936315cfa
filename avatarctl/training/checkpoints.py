"""Save and restore everything a run has to remember, in step folders that are whole or ignored.

``checkpoints/step-00000500/`` holds ``trained.safetensors`` (what trains), ``optimizer.safetensors``, ``ema.safetensors``, and
``state.json``, sealed, with the checksum of every file. A folder is written under a hidden name, flushed, and renamed; one
without a whole state.json, or with a file that is not what was written, is passed over. A sharded run (FSDP2)
keeps its files, a share of each process, in ``sharded/`` instead of the first two.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from avatarctl import durable

FOLDER, STATE = "checkpoints", "state.json"
NAME = re.compile(r"step-(\d{8})")


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint: its folder, and ``state`` as it was saved."""

    path: Path
    state: Mapping[str, Any]

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return int(self.state["step"])

    def weights(self) -> dict[str, Tensor]:
        """Return what trains as it is exported: its average, where there is one."""
        if not (self.path / "ema.safetensors").exists():
            return self.tensors("trained")
        return {name: tensor for name, tensor in self.tensors("ema").items() if name != "optimization_step"}

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Return the tensors of one of its files."""
        return load_file(self.path / f"{name}.safetensors")


def part_of(run: Path, step: int) -> Path:
    """Return where a checkpoint is written before it counts."""
    return run / FOLDER / f".step-{step:08d}{durable.PART}"


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a file of tensors that is whole or absent."""
    with durable.beside(path) as part:
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, part)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file that :func:`save_tensors` wrote."""
    return load_file(path)


def begin(run: Path, step: int) -> Path:
    """Return an empty folder to write a checkpoint into; a leftover of a kill is removed."""
    path = part_of(run, step)
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def write(folder: Path, files: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Write named groups of tensors into a checkpoint that was begun."""
    for name, tensors in files.items():
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / f"{name}.safetensors")


def finish(run: Path, folder: Path, state: Mapping[str, Any], keep: int) -> Checkpoint:
    """Seal a checkpoint and put it in its place, then remove what is older than the newest ``keep``."""
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        files[path.relative_to(folder).as_posix()] = durable.digest(path)
    durable.replace(folder / STATE, durable.sealed({**state, "files": files}))
    target = run / FOLDER / f"step-{int(state['step']):08d}"
    if target.exists():  # passed over because it is damaged
        shutil.rmtree(target)
    folder.rename(target)
    durable.flush_folder(target.parent)
    for old in steps(run)[:-keep]:
        shutil.rmtree(run / FOLDER / f"step-{old:08d}")
    return Checkpoint(target, state)


def steps(run: Path) -> list[int]:
    """Return the steps of the checkpoints there are, whole or not, in order."""
    found = [NAME.fullmatch(path.name) for path in (run / FOLDER).glob("step-*")]
    return sorted(int(match[1]) for match in found if match)


def newest(run: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest whole checkpoint, and what was passed over."""
    passed_over: list[str] = []
    for step in reversed(steps(run)):
        if checkpoint := whole(run, step):
            return checkpoint, passed_over
        passed_over.append(f"step-{step:08d}")
    return None, passed_over


def whole(run: Path, step: int) -> Checkpoint | None:
    """Return the checkpoint of a step, every file of it compared with its checksum; None where it isn't whole."""
    checkpoint = at(run, step)
    if checkpoint is None:
        return None
    files = checkpoint.state["files"].items()
    return checkpoint if all(durable.digest(checkpoint.path / name) == sum_ for name, sum_ in files) else None


def at(run: Path, step: int) -> Checkpoint | None:
    """Return the checkpoint of a step by what it says of itself, its files unread; None where there is none."""
    path = run / FOLDER / f"step-{step:08d}"
    state = durable.unsealed(path / STATE)
    return None if state is None else Checkpoint(path, state)


def sweep(run: Path) -> None:
    """Remove what a kill left half-written."""
    for leftover in (run / FOLDER).glob(f".step-*{durable.PART}"):
        shutil.rmtree(leftover)
