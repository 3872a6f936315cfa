"""Resolve settings from YAML presets, environment and flags, each value with its source."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avatarctl import console
from avatarctl.errors import UsageError
from avatarctl.paths import preset_folders, shipped_presets
from avatarctl.settings.names import KEYS, flag_of, key_of, keys_of, note_old_name, to_fields
from avatarctl.textfiles import read_text

if TYPE_CHECKING:
    import yaml

    from avatarctl.settings.base import Settings

# Kind of preset -> module and class of the settings that it holds.
KINDS = {
    "render": ("avatarctl.settings.render", "AllSettings"),
    "train": ("avatarctl.settings.train", "TrainSettings"),
    "lora": ("avatarctl.settings.train", "TrainSettings"),
    "data": ("avatarctl.settings.encode", "EncodeSettings"),
    "prepare": ("avatarctl.settings.prepare", "PrepareSettings"),
}
# What a preset says about itself, beside settings.
HEADER = ("description", "extends")
SUFFIXES = (".yaml", ".yml")
PREFIX = "AVATARCTL_"
# Variables that are no settings.
OWN_VARIABLES = ("HOME", "DEBUG", "WEIGHTS", "GOLDEN", "COMPLETE")
HOW = "`avatarctl presets copy square mine.yaml` writes one to begin with"
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


def settings_class(kind: str) -> type[Settings]:
    """Return the settings that presets of this kind hold."""
    module, name = KINDS[kind]
    found: type[Settings] = getattr(import_module(module), name)
    return found


def title_of(name: str | None) -> str | None:
    """Return what a preset is called, without the folders of its file."""
    return Path(name).stem if name is not None and name.endswith(SUFFIXES) else name


def kind_of(name: str) -> str:
    """Return the kind of a preset: of a file by the folder it lies in, of a name by the first kind that has it."""
    if name.endswith(SUFFIXES):
        folder = Path(name).resolve().parent.name
        return folder if folder in KINDS else "render"
    return next((kind for kind in KINDS if name in names(kind)), "render")


def names(kind: str = "render") -> dict[str, Path]:
    """Return every preset by name; a user's preset shadows a shipped one of the same name."""
    return {name: paths[0] for name, paths in _candidates(kind).items()}


def launchers() -> dict[str, Path]:
    """Return the files for `accelerate launch --config_file`, by name."""
    return {path.stem: path for path in sorted((shipped_presets() / "train" / "accelerate").glob("*.yaml"))}


def shadowed(path: Path, kind: str = "render") -> Path | None:
    """Return the shipped preset that a user's preset stands in for, if there is one."""
    candidates = _candidates(kind).get(path.stem, [])
    return candidates[1] if len(candidates) > 1 and path == candidates[0] else None


def is_shipped(path: Path) -> bool:
    """Return whether a preset came with the program."""
    return path.is_relative_to(shipped_presets())


def _candidates(kind: str) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for folder in preset_folders(kind):
        for path in sorted(folder.glob("*.yaml")):
            found.setdefault(path.stem, []).append(path)
    return found


def load(name: str, kind: str = "render") -> Preset:
    """Load a preset by name or path, merged with what it extends; raises ``UsageError`` for what is wrong with it."""
    path = find(name, kind)
    own, places = read(path)
    return _merge(name, path, own, places, kind, (path,))


def find(name: str, kind: str = "render", chain: tuple[Path, ...] = ()) -> Path:
    """Return the file of a preset; raises ``UsageError`` with the nearest names.

    ``chain``: the presets that extend it. A user's ``draft`` that extends ``draft`` means the shipped one.
    """
    by_path = name.endswith(SUFFIXES)
    folder = chain[-1].parent if chain else Path()
    candidates = [folder / name] if by_path else _candidates(kind).get(name, [])
    candidates = [path for path in candidates if path.is_file()]
    for path in candidates:
        if path.resolve() not in [link.resolve() for link in chain]:
            return path
    if candidates:
        raise UsageError(
            f"preset '{name}': extends itself ({' -> '.join(map(str, (*chain, candidates[0])))})",
            "take `extends` out of one of them",
        )
    raise UsageError(f"preset '{name}': not found", _nearest(name, kind))


def _nearest(name: str, kind: str) -> str:
    """Return the hint for a preset that isn't there: a like one, or what a preset of this name is for."""
    known = sorted(names(kind))
    others = [each for each in KINDS if each != kind and name in names(each)]
    if name.endswith(SUFFIXES):
        hint = "check the path; "
    elif others:
        hint = f"{name} is there for {' and '.join(others)}, not for {kind}; "
    else:
        close = get_close_matches(name, known)
        hint = f"did you mean {close[0]}? " if close else ""
    return f"{hint}known presets: {', '.join(known)}"


def _merge(
    name: str, path: Path, own: dict[str, Any], places: dict[str, str], kind: str, chain: tuple[Path, ...]
) -> Preset:
    values = {key: value for key, value in own.items() if key not in HEADER}
    for key in set(values) - {*settings_class(kind).model_fields, *keys_of(settings_class(kind).model_fields)}:
        if close := get_close_matches(str(key), HEADER, n=1, cutoff=0.75):
            raise UsageError(
                f"{key} ({places[str(key)]}): unknown setting, did you mean {close[0]}?", f"write {close[0]} there"
            )
    description = str(own.get("description", ""))
    values, places, twice = to_fields(values, places, settings_class(kind).model_fields)
    if twice:
        raise UsageError("\n".join(twice), "keep one of them")
    if own.get("extends") is None:
        return Preset(name, path, description, values, places)
    parent = str(own["extends"])
    try:
        above = find(parent, kind, chain)
    except UsageError as error:
        raise UsageError(f"extends ({places['extends']}): {error.message}", error.hint) from error
    base = _merge(parent, above, *read(above), kind, (*chain, above))
    return Preset(name, path, description, {**base.values, **values}, {**base.places, **places})


def mistakes(name: str, kind: str = "render") -> list[str]:
    """Return every mistake of a preset and of what it extends, each with file and line; none for a good one.

    What stands under a broken ``extends`` is checked all the same.
    """
    from avatarctl.settings.check import make

    found: list[str] = []
    try:
        path = find(name, kind)
        own, places = read(path)
    except UsageError as error:
        return [error.message]
    settings = {key: value for key, value in own.items() if key not in HEADER}
    values: Mapping[str, Any]
    values, places, _ = to_fields(settings, places, settings_class(kind).model_fields)
    try:
        preset = _merge(name, path, own, places, kind, (path,))
        values, places = preset.values, dict(preset.places)
    except UsageError as error:
        found.append(error.message)
    try:
        make(settings_class(kind), values, places)
    except UsageError as error:
        known = [line.split(":")[0] for line in found]
        found += [line for line in error.message.split("\n") if line.split(":")[0] not in known]
    return found


def read(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Read a YAML mapping, with the place (file and line) of every key; raises ``UsageError`` for broken YAML."""
    import yaml

    try:
        text = read_text(path)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UsageError(f"{path}: broken YAML{where} ({getattr(error, 'problem', None) or error})", HOW) from error
    except ValueError as error:  # what looks like a date and can't be one
        raise UsageError(
            f"{path}: can't be read ({error})", "put text that looks like a date between quotes"
        ) from error
    if values is None:
        raise UsageError(f"{path}: got an empty file, expected settings as 'name: value' lines", HOW)
    if not isinstance(values, dict) or node is None:
        raise UsageError(f"{path}: got {type(values).__name__}, expected settings as 'name: value' lines", HOW)
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


def moved(path: Path, folder: Path) -> str:
    """Return a preset's text for a copy in ``folder``: a file beside it that it extends is named by its whole path."""
    import yaml

    text = path.read_text(encoding="utf-8")
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(node, yaml.MappingNode), "it was read before"
    for key, value in node.value:
        if key.value == "extends" and value.value.endswith(SUFFIXES) and path.parent.resolve() != folder.resolve():
            whole = json.dumps(str((path.parent / value.value).resolve()), ensure_ascii=False)
            return text[: value.start_mark.index] + whole + text[value.end_mark.index :]
    return text


def _keys(node: yaml.Node, path: tuple[str, ...] = ()) -> Iterator[tuple[str, int]]:
    """Return ("guidance.1.text", line) of every key and list item. Settings are three levels deep, YAML may be endless."""
    if len(path) == 3 or not isinstance(node.value, list):
        return
    for index, item in enumerate(node.value):
        name, value = (item[0], item[1]) if isinstance(item, tuple) else (None, item)
        below = (*path, str(name.value if name else index))
        yield ".".join(below), (name or value).start_mark.line + 1
        yield from _keys(value, below)


def from_environment(known: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the settings that ``AVATARCTL_*`` variables hold (AVATARCTL_STEPS=20); other variables of ours are left alone."""
    import yaml

    source = os.environ if environment is None else environment
    found = {}
    for name, field in known.items():
        variable = variable_of(name, known)
        if variable not in source and (old := PREFIX + name.upper()) in source and name not in keys_of(known):
            note_old_name(old, variable, "")
            variable = old
        text = source.get(variable)
        if text is None:
            continue
        try:
            found[name] = text if field.annotation in TEXT else yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UsageError(
                f"{variable}: got '{text}', expected a value as in a preset", "quote what has a colon or brackets"
            ) from error
    return found


def variable_of(name: str, known: Iterable[str]) -> str:
    """Return the environment variable of a setting."""
    return PREFIX + key_of(name, list(known)).upper()


def note_strange_variables(environment: Mapping[str, str] | None = None) -> None:
    """Tell of ``AVATARCTL_*`` variables that no setting is called: they do nothing."""
    for line in strange_variables(os.environ if environment is None else environment):
        console.note(f"warning: {line}")


def strange_variables(environment: Iterable[str]) -> list[str]:
    """Return a line for each ``AVATARCTL_*`` variable that is neither a setting nor one of the program's own."""
    fields = [name for kind in KINDS for name in settings_class(kind).model_fields]
    known = {*OWN_VARIABLES, *(name.upper() for name in fields), *(name.upper() for name in KEYS.values())}
    strange = []
    for variable in sorted(environment):
        word = variable.removeprefix(PREFIX)
        if word != variable and word not in known:
            close = get_close_matches(word, sorted(known), n=1)
            strange.append(
                f"{variable}: no setting is called so" + (f", did you mean {PREFIX}{close[0]}?" if close else "")
            )
    return strange


def resolve(
    known: Mapping[str, Any], preset: str | None, flags: Mapping[str, Any], kind: str = "render"
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return values and, for each, its source: flags win over ``AVATARCTL_*``, these over the preset, it over defaults.

    ``known``: the fields of the settings. What a preset holds beyond them is kept: settings complain of it.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    if preset is not None:
        loaded = load(preset, kind)
        if instead := shadowed(loaded.path, kind):
            console.note(f"preset {preset}: yours ({loaded.path}), not the shipped one ({instead})")
        values.update(loaded.values)
        sources.update({name: loaded.places.get(name, str(loaded.path)) for name in loaded.values})
    note_strange_variables()
    for name, value in from_environment(known).items():
        values[name], sources[name] = value, variable_of(name, known)
    for name, value in flags.items():
        if value is not None:
            values[name], sources[name] = value, flag_of(name, known)
    return values, sources


def example_of(preset: str | None, kind: str = "render") -> str:
    """Return what `presets show` shows a preset of this kind with: a shipped one that was asked for, else nothing."""
    path = names(kind).get(preset or "")
    if path is None or not is_shipped(path):
        return ""
    return f"{path.stem}" + ("" if kind_of(path.stem) == kind else f" --kind {kind}")


def explain(kind: str, preset: str | None, flags: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return setting, by its name for people -> its ``value``, what it ``takes``, its ``source``, what it ``does``.

    Raises ``UsageError`` with every mistake.
    """
    from avatarctl.settings.check import describe, make
    from avatarctl.settings.student import as_students_ask

    model = settings_class(kind)
    values, sources = resolve(model.model_fields, preset, flags, kind)
    if kind == "render":
        values, sources = as_students_ask(values, sources)
    resolved = make(model, values, sources, example=example_of(preset, kind)).model_dump(mode="json")
    fields = keys_of(model.model_fields)
    return {
        key: {
            "value": resolved[fields[key]],
            "takes": takes,
            "source": sources.get(fields[key], "default"),
            "does": does,
        }
        for key, (takes, _, does) in describe(model).items()
    }
