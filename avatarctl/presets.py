"""Takes YAML presets, environment and flags, gives values for settings, each with the source it came from."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avatarctl.errors import UsageError
from avatarctl.paths import preset_folders

if TYPE_CHECKING:
    import yaml

PREFIX = "AVATARCTL_"
# Settings whose variable is taken letter by letter: a prompt with a colon is no YAML mapping.
TEXT = (str, Path | None)


@dataclass(frozen=True)
class Preset:
    """One preset with what it extends merged in: ``values`` and, for each, where it stands."""

    name: str
    path: Path
    description: str
    values: Mapping[str, Any]
    places: Mapping[str, str]


def names(kind: str = "render") -> dict[str, Path]:
    """Give every preset by name; a user's preset shadows a shipped one of the same name."""
    found: dict[str, Path] = {}
    for folder in preset_folders(kind):
        for path in sorted(folder.glob("*.yaml")):
            found.setdefault(path.stem, path)
    return found


def load(name: str, kind: str = "render") -> Preset:
    """Load a preset by name or path, merged with what it extends; raises ``UsageError`` for what is wrong with it."""
    return _load(name, kind, (), Path())


def _load(name: str, kind: str, chain: tuple[str, ...], folder: Path) -> Preset:
    path = folder / name if name.endswith((".yaml", ".yml")) else names(kind).get(name)
    if path is None or not path.is_file():
        known = sorted(names(kind))
        close = get_close_matches(name, known)
        hint = f"did you mean {close[0]}? " if close else ""
        raise UsageError(f"preset '{name}': not found", f"{hint}known presets: {', '.join(known)}")
    if str(path) in chain:
        raise UsageError(f"preset '{name}': extends itself ({' -> '.join([*chain, str(path)])})")
    own, places = read(path)
    description = str(own.pop("description", ""))
    parent = own.pop("extends", None)
    if parent is None:
        return Preset(name, path, description, own, places)
    base = _load(str(parent), kind, (*chain, str(path)), path.parent)
    return Preset(name, path, description, {**base.values, **own}, {**base.places, **places})


def read(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Read a YAML mapping, with the place (file and line) of every key; raises ``UsageError`` for broken YAML."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UsageError(f"{path}: broken YAML{where} ({getattr(error, 'problem', None) or error})") from error
    except (OSError, ValueError) as error:  # no UTF-8, or a date that can't be
        raise UsageError(f"{path}: can't be read ({error})") from error
    if not isinstance(values, dict) or node is None:
        raise UsageError(f"{path}: got {type(values).__name__}, expected settings as 'name: value' lines")
    places: dict[str, str] = {}
    twice = []
    for key, line in _keys(node):
        place = f"{path}, line {line}"
        if key in places:
            twice.append(f"{place}: '{key}' stands there twice (first in {places[key]})")
        places[key] = place
    if twice:
        raise UsageError("\n".join(twice), "keep one of them")
    return values, places


def _keys(node: yaml.Node, path: tuple[str, ...] = ()) -> Iterator[tuple[str, int]]:
    """Give ("guidance.1.text", line) of every key and list item. Settings are three levels deep, YAML may be endless."""
    if len(path) == 3 or not isinstance(node.value, list):
        return
    for index, item in enumerate(node.value):
        name, value = (item[0], item[1]) if isinstance(item, tuple) else (None, item)
        below = (*path, str(name.value if name else index))
        yield ".".join(below), (name or value).start_mark.line + 1
        yield from _keys(value, below)


def from_environment(known: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Give the settings that ``AVATARCTL_*`` variables hold (AVATARCTL_STEPS=20); other variables of ours are left alone."""
    import yaml

    source = os.environ if environment is None else environment
    found = {}
    for name, field in known.items():
        text = source.get(PREFIX + name.upper())
        if text is None:
            continue
        try:
            found[name] = text if field.annotation in TEXT else yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UsageError(f"{PREFIX}{name.upper()}: got '{text}', expected a value as in a preset") from error
    return found


def resolve(
    known: Mapping[str, Any], preset: str | None, flags: Mapping[str, Any], kind: str = "render"
) -> tuple[dict[str, Any], dict[str, str]]:
    """Give values and, for each, its source: flags win over ``AVATARCTL_*``, these over the preset, it over defaults.

    ``known``: the fields of the settings. What a preset holds beyond them is kept: settings complain of it.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    if preset is not None:
        loaded = load(preset, kind)
        values.update(loaded.values)
        sources.update({name: loaded.places.get(name, str(loaded.path)) for name in loaded.values})
    for name, value in from_environment(known).items():
        values[name], sources[name] = value, PREFIX + name.upper()
    for name, value in flags.items():
        if value is not None:
            values[name], sources[name] = value, f"--{name.replace('_', '-')}"
    return values, sources
