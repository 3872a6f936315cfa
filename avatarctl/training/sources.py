"""Several caches as one set of samples, and how often and how much the samples of a folder count."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeVar

import torch

from avatarctl.data.shards import Index, SampleEntry, read_about
from avatarctl.errors import UsageError
from avatarctl.settings.train import TrainSettings

Value = TypeVar("Value")
SHOWN = 4


def entries_of(caches: Sequence[Path]) -> list[SampleEntry]:
    """Return the samples of all caches; those of the second and later ones have its number in front of their keys.

    Raises ``UsageError`` for caches that were encoded by other networks: one transformer can't learn from both.
    """
    if twice := {cache.resolve() for cache in caches if [c.resolve() for c in caches].count(cache.resolve()) > 1}:
        raise UsageError(
            f"--data: got {', '.join(map(str, sorted(twice)))} twice, expected different caches", "name each once"
        )
    first = _networks(caches[0])
    for cache in caches[1:]:
        other = _networks(cache)
        if wrong := [role for role in sorted({*first, *other}) if first.get(role) != other.get(role)]:
            raise UsageError(
                f"{cache}: was encoded with another {', '.join(wrong)} than {caches[0]}, expected the same networks",
                f"encode its clips again with those of {caches[0]}: avatarctl data encode SOURCE --output CACHE --weights FOLDER",
            )
    found = Index(caches[0]).samples()
    for number, cache in enumerate(caches[1:], start=1):
        found += [replace(entry, key=f"{number}/{entry.key}") for entry in Index(cache).samples()]
    return found


def _networks(cache: Path) -> dict[str, str]:
    """Return role -> SHA-256 of the networks that a cache was encoded with."""
    weights: dict[str, dict[str, str]] = read_about(cache).get("weights", {})
    return {role: file.get("sha256", "") for role, file in weights.items()}


def place_of(caches: Sequence[Path], entry: SampleEntry) -> tuple[Path, SampleEntry]:
    """Return the cache that a sample lies in, and its entry there."""
    number, slash, key = entry.key.partition("/")
    return (caches[int(number)], replace(entry, key=key)) if slash else (caches[0], entry)


def matching(table: Mapping[str, Value], entry: SampleEntry, otherwise: Value) -> Value:
    """Return what a table says of a sample: the first of its patterns that the clip's name matches counts."""
    name = str(entry.meta.get("source", ""))
    return next((value for pattern, value in table.items() if fnmatchcase(name, pattern)), otherwise)


def check_patterns(settings: TrainSettings, entries: Sequence[SampleEntry]) -> None:
    """Raise ``UsageError`` for a pattern that no clip's name matches: a misspelt folder would count like all others."""
    names = sorted({str(entry.meta.get("source", "")) for entry in entries})
    for setting in ("repeats", "loss_weights"):
        for pattern in getattr(settings, setting):
            if not any(fnmatchcase(name, pattern) for name in names):
                raise UsageError(
                    f"{setting}: no clip's name matches '{pattern}'; clips are {', '.join(names[:SHOWN])}"
                    + (f" … and {len(names) - SHOWN} more" if len(names) > SHOWN else ""),
                    f"--set '{setting}={{FOLDER/*: 2}}'",
                )
    if settings.repeats and not any(matching(settings.repeats, entry, 1.0) for entry in entries):
        raise UsageError("repeats: got 0 for every clip, expected some to train on", "--set repeats={}")


def without(left: Sequence[SampleEntry], kept: Sequence[SampleEntry]) -> str:
    """Return the flag that leaves samples out and keeps others: by their folders, where these hold none of the others."""
    names, others = ([str(entry.meta.get("source", "")) for entry in entries] for entries in (left, kept))
    folders = {name.rpartition("/")[0] for name in names} - {""}
    whole = {folder for folder in folders if not any(name.startswith(f"{folder}/") for name in others)}
    patterns = [f"{name.rpartition('/')[0]}/*" if name.rpartition("/")[0] in whole else name for name in names]
    return "--set " + shlex.quote(f"repeats={{{', '.join(f'{each}: 0' for each in sorted(set(patterns)))}}}")


def repeated(
    members: Sequence[SampleEntry], repeats: Mapping[str, float], generator: torch.Generator
) -> list[SampleEntry]:
    """Return samples as often as they are repeated; of parts, such as 0.5, as many are drawn each epoch, always equally many."""
    if not repeats:
        return list(members)
    chosen: list[SampleEntry] = []
    groups: dict[float, list[SampleEntry]] = {}
    for entry in members:
        groups.setdefault(matching(repeats, entry, 1.0), []).append(entry)
    for times, group in sorted(groups.items()):
        chosen += group * int(times)
        part = round((times - int(times)) * len(group))
        chosen += [group[i] for i in torch.randperm(len(group), generator=generator)[:part].tolist()]
    return chosen


def masks_of(entry: SampleEntry) -> tuple[bool, bool]:
    """Return whether a sample has a face mask and a lip mask of its own; older caches don't always tell."""
    given = entry.meta.get("masks", ("face", "lip"))
    return "face" in given, "lip" in given
