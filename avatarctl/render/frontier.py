"""Save and restore the windows in flight as generations of files, of which the newest whole one counts.

A window after a step never changes, so its file (``frontier/WINDOW-STEPS.safetensors``) is written once and shared by the
generations that need it; a generation is a list of such files. It is written after the files it lists; what the last two
generations don't list is removed last.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from avatarctl.render.folder import RenderFolder
from avatarctl.sampling.denoise import InFlight

FOLDER = "frontier"
KEPT_GENERATIONS = 2


@dataclass(frozen=True)
class Frontier:
    """Windows in flight, and ``first``: every window before it is final."""

    windows: dict[int, InFlight]
    first: int


def _file(index: int, done: int) -> str:
    return f"{FOLDER}/{index:06d}-{done:04d}.safetensors"


def _generations(folder: RenderFolder) -> list[str]:
    return [name for name in folder.listed(FOLDER) if name.endswith(".json")]


def save(folder: RenderFolder, frontier: Frontier) -> None:
    """Write a new generation, then remove what is older than the one before it."""
    listed = set(folder.listed(FOLDER))
    names = {}
    for index, window in frontier.windows.items():
        names[str(index)] = name = _file(index, window.done)
        if name not in listed:
            tensors = {"latents": window.latents} | (
                {} if window.guidance_residual is None else {"guidance_residual": window.guidance_residual}
            )
            folder.write_tensors(name, {key: tensor.cpu() for key, tensor in tensors.items()})
    generations = _generations(folder)
    number = int(generations[-1].rpartition("-")[2].removesuffix(".json")) + 1 if generations else 0
    content = {"first": frontier.first, "windows": names}
    folder.write(f"{FOLDER}/generation-{number:08d}.json", json.dumps(content, indent=1).encode())
    _sweep(folder)


def _sweep(folder: RenderFolder) -> None:
    generations = _generations(folder)
    needed: set[str] = set(generations[-KEPT_GENERATIONS:])
    for name in generations[-KEPT_GENERATIONS:]:
        data = folder.read(name)
        if data is not None:
            needed |= set(json.loads(data)["windows"].values())
    folder.forget_all([name for name in folder.listed(FOLDER) if name not in needed])


def load(folder: RenderFolder) -> Frontier | None:
    """Return the newest generation whose files are all as they were written, or None."""
    for name in reversed(_generations(folder)):
        data = folder.read(name)
        if data is None:
            continue
        content = json.loads(data)
        windows: dict[int, InFlight] = {}
        for index, file in content["windows"].items():
            tensors = folder.read_tensors(file)
            if tensors is None:
                break
            done = int(file.rpartition("-")[2].removesuffix(".safetensors"))
            windows[int(index)] = InFlight(
                done, tensors["latents"], tensors.get("guidance_residual", tensors.get("kept"))
            )
        else:
            return Frontier(windows, content["first"])
    return None
