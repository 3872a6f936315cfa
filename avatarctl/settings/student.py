"""Students of the guided network: what a LoRA file says of how it is rendered, and settings that follow it. No torch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from avatarctl.errors import UsageError
from avatarctl.paths import as_spelled, shipped_presets
from avatarctl.settings.values import lora_file, parse_lora

STUDENT = "avatarctl.distilled"  # key of the metadata of a distilled LoRA
LONGEST_HEADER = 100 << 20
# What a student was made for. A table of guidance outside of it would guide what is guided already.
FOLLOWED = ("steps", "schedule", "shift", "solver", "guidance", "window")
# What goes with a guidance, and has no meaning without one.
WITHOUT = {"guidance_interval": None, "guidance_reuse": 1}


def student_of(path: Path) -> dict[str, Any] | None:
    """Return what a LoRA file says of itself as a student; None for any other file, and for one that can't be read."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > LONGEST_HEADER:
                return None
            facts = json.loads(json.loads(file.read(length))["__metadata__"][STUDENT])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a damaged file is named by whoever loads it
    return facts if isinstance(facts, dict) else None


def as_students_ask(values: Mapping[str, Any], places: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return settings of a render, and their sources, with what its distilled LoRAs ask for where the user said nothing.

    A shipped preset is not the user's word: its number of steps and its guidance are for networks that weren't distilled.
    """
    found, sources = dict(values), dict(places)
    for path, _, student in students(values.get("lora")):
        asked = {name: student[name] for name in FOLLOWED if student.get(name) is not None}
        if asked.get("guidance") == "none":
            asked |= WITHOUT
        for name, value in asked.items():
            if not said(name, places) and not sources.get(name, "").startswith(SAYS):
                found[name], sources[name] = value, f"{SAYS}{path.name}"
    return found, sources


SAYS = "distilled LoRA "


def students(given: Any) -> list[tuple[Path, float, dict[str, Any]]]:
    """Return file, scale and what it says, of every student among a setting's LoRAs; what is wrong there is said elsewhere."""
    texts = [given] if isinstance(given, str) else given if isinstance(given, list | tuple) else []
    found = []
    for text in texts:
        try:
            name, scale = parse_lora(text) if isinstance(text, str) else (str(text[0]), float(text[1]))
            path = lora_file(as_spelled(Path(name)))
        except (ValueError, TypeError, IndexError, UsageError):
            continue
        if (student := student_of(path)) is not None:
            found.append((path, scale, student))
    return found


def said(name: str, places: Mapping[str, str]) -> bool:
    """Return whether the user said a setting: by flag, variable or a preset of his own."""
    place = places.get(name)
    return place is not None and not place.startswith(str(shipped_presets()) + os.sep)


def notes_of(
    loras: list[tuple[Path, float, dict[str, Any]]],
    settings: Mapping[str, Any],
    base_sha256: str | None,
    merged: Mapping[str, float] | None = None,
) -> list[str]:
    """Return what to warn of where a render is not what its students were made for.

    ``settings``: those of the render, as JSON holds them. ``base_sha256``: of its transformer (None: isn't known).
    ``merged``: SHA-256 -> scale of all its LoRAs (None: they aren't known).
    """
    notes = []
    for path, scale, student in loras:
        other = {
            name: (student[name], settings[name])
            for name in FOLLOWED
            if student.get(name) is not None and settings.get(name) != student[name]
        }
        for name, (made_for, now) in other.items():
            shown = now if isinstance(now, str | int | float) else "a table"
            why = "; it would be guided twice" if name == "guidance" else ""
            notes.append(f"{path.name} was distilled for {name} {made_for}, and {name} is {shown}{why}")
        if scale != 1:
            weaker = "weaker" if scale < 1 else "stronger"
            notes.append(f"{path.name} at {scale:g}: the guidance that it stands for is {weaker}")
        teacher = student.get("teacher") or {}
        was = teacher.get("base_sha256")
        if was and base_sha256 and was != base_sha256:
            notes.append(
                f"{path.name} was distilled on another transformer (sha256 {was[:12]}, this one is {base_sha256[:12]})"
            )
        if merged is not None:
            notes += [f"{path.name} was distilled over {each}" for each in _missing(teacher.get("loras") or (), merged)]
    if len(loras) > 1:
        notes.append(f"{' and '.join(path.name for path, _, _ in loras)} were both distilled: their guidance adds up")
    return notes


def _missing(taught: Iterable[Mapping[str, Any]], merged: Mapping[str, float]) -> Iterator[str]:
    """Tell of the LoRAs that a teacher was rendered with and a render hasn't, or at another scale."""
    for lora in taught:
        name, scale, here = lora["name"], float(lora["scale"]), merged.get(str(lora["sha256"]))
        if here is None:
            yield f"the LoRA {name} at {scale:g}, which this render lacks: --lora {name}:{scale:g}"
        elif here != scale:
            yield f"{name} at {scale:g}, and it is at {here:g}"


def flags_of(student: Mapping[str, Any]) -> str:
    """Return the flags of `generate` that say what a student's file does."""
    told = {name: student[name] for name in FOLLOWED if student.get(name) is not None and name != "window"}
    return " ".join(
        f"--{name} {value:g}" if isinstance(value, float) else f"--{name} {value}" for name, value in told.items()
    )


def in_words(path: Path, student: Mapping[str, Any]) -> str:
    """Return a line on a student: "turbo.safetensors, distilled: 8 euler steps, schedule uniform, guidance none"."""
    steps = f"{student['steps']} " if student.get("steps") else "any number of "
    return (
        f"{path.name}, distilled: {steps}{student.get('solver')} steps, schedule {student.get('schedule')}, "
        + (f"shift {student['shift']:g}, " if student.get("shift") else "")
        + f"guidance {student.get('guidance')}"
    )
