"""Link the files of a set that a local folder holds; copies nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from avatarctl import console, durable
from avatarctl.errors import InputFileError, UsageError
from avatarctl.fetching import record
from avatarctl.fetching.link import link
from avatarctl.fetching.record import ELSEWHERE, MAKE_ROOM, Record
from avatarctl.fetching.sets import Part, WeightSet, choose, converted
from avatarctl.networks.header import damage
from avatarctl.weights import remember_checksum

# Names that tell nothing without their folder; a star, too, is no file's name.
ANYTHING = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Found:
    """A file of a set that lies in another folder: the path it is released under, and where it is."""

    path: str
    source: Path


def recognise(weight_set: WeightSet, folder: Path) -> tuple[list[Found], list[Part]]:
    """Return the files of a set that are somewhere below ``folder``, and the parts of which there is none.

    A file is known by the end of its path (``…/google/umt5-xxl/spiece.model``), or by its name alone where the set
    names it in full; what was converted to safetensors counts. Raises ``InputFileError`` for what is no folder, and
    for a file whose end is missing.
    """
    if not folder.is_dir():
        raise InputFileError(f"{folder}: got no such folder, expected one with weights", "name it with --from")
    below = _below(folder)
    found, missing = [], []
    for part in weight_set.parts:
        if files := _find(part, below):
            found += files
        else:
            missing.append(part)
    if broken := [f"{each.source}: {fault}" for each in found if (fault := damage(each.source))]:
        raise InputFileError("; ".join(broken), "get that file again, or fetch it from the hub: avatarctl fetch")
    return found, missing


def _below(folder: Path) -> list[tuple[str, ...]]:
    """Return the names on the way to every file below ``folder``, the least deep first."""
    files = []
    for root, folders, names in os.walk(folder, followlinks=True):
        real = Path(root).resolve()
        if any(above.resolve() == real for above in Path(root).absolute().parents):  # a link back up
            folders.clear()
            continue
        folders.sort()
        here = Path(root).relative_to(folder).parts
        files += [(*folder.absolute().parts, *here, name) for name in sorted(names)]
    return sorted(files, key=len)


def _find(part: Part, below: Sequence[tuple[str, ...]]) -> list[Found]:
    for pattern in part.patterns:
        # Converted files are smaller and start faster: first, as in `weights`.
        for wanted in dict.fromkeys((converted(pattern) if part.network else pattern, pattern)):
            depth = wanted.count("/") + 1
            by_end = {"/".join(names[-depth:]): names for names in reversed(below)}
            ends = choose(Part(part.role, (wanted,), 0), by_end)
            if ends:
                return [Found(end, Path(*by_end[end])) for end in ends]
            name = wanted.rpartition("/")[2]
            if name in ANYTHING:
                continue
            if lone := next((names for names in below if names[-1] == name), None):
                return [Found(wanted, Path(*lone))]
    return []


def link_found(
    weight_set: WeightSet, found: list[Found], folder: Path, records: dict[str, Record], force: bool
) -> dict[str, str]:
    """Link every found file into ``folder`` and note it in the record; give path -> kind of link.

    Each file is read once, for its SHA-256. Raises ``UsageError`` where another file is in the way.
    """
    entry = records.setdefault(weight_set.name, Record(weight_set.repo, ""))
    made: dict[str, str] = {}
    for each in found:
        target, source = folder / each.path, each.source.resolve()
        ours = each.path in entry.files
        same = target.exists() and target.samefile(source)
        if target.exists() and not (same or ours or force):
            raise UsageError(
                f"{target}: got another file there", "--force replaces it; its bytes stay where it links to"
            )
        console.note(f"{each.path}: reading it for its hash")
        sha256 = durable.digest(source)
        assert sha256 is not None
        with durable.guarded(target, MAKE_ROOM, ELSEWHERE):
            target.parent.mkdir(parents=True, exist_ok=True)
            made[each.path] = "already there" if same else link(source, target)
        # The original of a converted file is unknown here: the hub's hash can't be compared with it.
        entry.put(each.path, source.stat().st_size, sha256, str(source))
        remember_checksum(target, sha256)
        record.write(folder, records)
    return made
