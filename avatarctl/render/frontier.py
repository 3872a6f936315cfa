"""Save and restore the windows in flight as generations, one file each, of which the newest whole one counts.

A generation (``frontier/generation-NUMBER.safetensors``) holds every window in flight as its latest step left it, how many
steps each has done, and the first window that isn't final. Two are kept. All windows before its first are in the folder when
it is written. Folders of the first version held a file for each window and step (``WINDOW-STEPS.safetensors``), and a
generation was a list of them (JSON): those are read, and gone once two generations of this form are there.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from avatarctl.render.folder import RenderFolder
from avatarctl.sampling.denoise import InFlight

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = "frontier"
KEPT_GENERATIONS = 2
GENERATION = re.compile(rf"{FOLDER}/generation-(\d+)\.(json|safetensors)")


@dataclass(frozen=True)
class Frontier:
    """Windows in flight, and ``first``: every window before it is final."""

    windows: dict[int, InFlight]
    first: int


def _generations(folder: RenderFolder) -> dict[int, str]:
    """Return number -> name of the generations that are there, the newest last."""
    found = ((GENERATION.fullmatch(name), name) for name in folder.listed(FOLDER))
    return dict(sorted((int(match[1]), name) for match, name in found if match))


def save(folder: RenderFolder, frontier: Frontier) -> None:
    """Write a new generation in the place of those before the last one."""
    tensors = {
        f"{index}.{name}": tensor
        for index, window in frontier.windows.items()
        for name, tensor in window.tensors().items()
    }
    steps = {index: window.done for index, window in frontier.windows.items()}
    generations = _generations(folder)
    kept = list(generations.values())[-KEPT_GENERATIONS + 1 :]
    old_form = any(name.endswith(".json") for name in kept)  # whose windows lie in files of their own
    older = [name for name in folder.listed(FOLDER) if name not in kept and not (old_form and "generation" not in name)]
    folder.write_large(
        f"{FOLDER}/generation-{max(generations, default=-1) + 1:08d}.safetensors",
        tensors,
        {"first": str(frontier.first), "steps": json.dumps(steps)},
        instead_of=older,
    )


def load(folder: RenderFolder) -> Frontier | None:
    """Return the newest generation that is as it was written, or None."""
    for name in reversed(_generations(folder).values()):
        found = _load_old(folder, name) if name.endswith(".json") else _load(folder, name)
        if found is not None:
            return found
    return None


def _load(folder: RenderFolder, name: str) -> Frontier | None:
    tensors = folder.read_large(name)
    if tensors is None:
        return None
    facts = folder.facts_of(name)
    of_window: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, _, field = key.partition(".")
        of_window.setdefault(index, {})[field] = tensor
    steps = json.loads(facts["steps"])
    return Frontier(
        {int(index): InFlight.of(done, of_window[index]) for index, done in steps.items()}, int(facts["first"])
    )


def _load_old(folder: RenderFolder, name: str) -> Frontier | None:
    data = folder.read(name)
    if data is None:
        return None
    content = json.loads(data)
    windows: dict[int, InFlight] = {}
    for index, file in content["windows"].items():
        tensors = folder.read_tensors(file)
        if tensors is None:
            return None
        done = int(file.rpartition("-")[2].removesuffix(".safetensors"))
        windows[int(index)] = InFlight(done, tensors["latents"], tensors.get("guidance_residual", tensors.get("kept")))
    return Frontier(windows, content["first"])
