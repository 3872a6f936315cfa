"""Read a manifest or a folder of recordings into one row per video, each with the line it comes from."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avatarctl.errors import UsageError
from avatarctl.paths import EMBEDDED, EMBEDDED_PICTURES, EMBEDDED_STUDENT
from avatarctl.settings.check import did_you_mean
from avatarctl.settings.names import keys_of, to_fields
from avatarctl.settings.presets import TEXT
from avatarctl.settings.render import AllSettings
from avatarctl.settings.values import parse_lora
from avatarctl.textfiles import read_text

if TYPE_CHECKING:
    import yaml

# What a row may say beside settings.
FILES = ("audio", "output")
MANIFESTS = (".csv", ".jsonl", ".tsv", ".yaml", ".yml")
DELIMITERS = (",", ";", "\t")


@dataclass(frozen=True)
class Row:
    """What is said of one video: ``values`` (settings, ``audio``, ``output``), their places, and what is wrong with it."""

    where: str
    values: dict[str, Any] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    mistakes: tuple[str, ...] = ()


# -- Manifests ------------------------------------------------------------------------------------------------------


def rows_of(manifest: Path) -> list[Row]:
    """Read a manifest; files in it are named relative to its folder. Raises ``UsageError`` when it can't be read at all."""
    readers = {".jsonl": _json_lines, ".csv": _csv, ".tsv": _csv}
    if manifest.suffix.lower() not in MANIFESTS:
        raise UsageError(
            f"{manifest}: got the ending '{manifest.suffix}', expected a folder of recordings or {', '.join(MANIFESTS)}"
        )
    text = read_text(manifest)
    rows = list(readers.get(manifest.suffix.lower(), _yaml)(manifest, text))
    if not rows:
        raise UsageError(f"{manifest}: got no items, expected one video per line or entry")
    return [_from_folder(row, manifest.parent) for row in rows]


def _row(where: str, values: Mapping[str, Any], places: Mapping[str, str], mistakes: list[str]) -> Row:
    by_field, places, twice = to_fields(values, places, AllSettings.model_fields)
    known = [*FILES, *AllSettings.model_fields]
    unknown = [name for name in by_field if name not in known]
    keys = [*FILES, *keys_of(AllSettings.model_fields)]
    mistakes += [f"{name} ({places[name]}): unknown setting{did_you_mean(name, keys)}" for name in unknown]
    told = {name: value for name, value in by_field.items() if name in known}
    return Row(where, told, places, (*mistakes, *twice))


def _json_lines(path: Path, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):  # other line ends may stand inside a text
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            pairs = json.loads(line, object_pairs_hook=_Pairs)
        except json.JSONDecodeError as error:
            yield Row(where, mistakes=(f"{where}: broken JSON in column {error.colno} ({error.msg})",))
            continue
        if not isinstance(pairs, _Pairs):
            yield Row(where, mistakes=(_no_mapping(where, pairs),))
            continue
        values: dict[str, Any] = {name: _plain(value) for name, value in pairs}
        yield _row(where, values, dict.fromkeys(values, where), _twice([name for name, _ in pairs], where))


class _Pairs(list[Any]):
    """The pairs of a JSON object, a name that stands there twice included."""


def _plain(value: Any) -> Any:
    if isinstance(value, _Pairs):
        return {name: _plain(inner) for name, inner in value}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def _csv(path: Path, text: str) -> Iterator[Row]:
    import yaml

    told, after = _told_delimiter(text)
    delimiter = told or _delimiter(after)
    reader = csv.reader(io.StringIO(after, newline=""), strict=True, delimiter=delimiter)
    skipped = 1 if told else 0
    header: list[str] | None = None
    known = keys_of(AllSettings.model_fields)
    fields = AllSettings.model_fields
    line = 1 + skipped
    try:
        for raw in reader:
            cells = [cell.strip() for cell in raw]
            # Where a row begins: a text may go over lines.
            where, line = f"{path}, line {line}", reader.line_num + 1 + skipped
            if not any(cells):
                continue
            if header is None:
                header = cells
                if twice := _twice([name for name in header if name], where):
                    yield Row(where, mistakes=tuple(twice))
                    return
                continue
            mistakes = []
            if len(cells) > len(header):
                mistakes.append(f"{where}: got {len(cells)} cells, expected {len(header)} as in the first line")
            values: dict[str, Any] = {}
            for name, cell in zip(header, cells, strict=False):
                if not cell:
                    continue  # an empty cell says nothing
                field = fields.get(known.get(name.replace("-", "_"), name))
                if name in FILES or field is None or field.annotation in TEXT:
                    values[name] = cell
                    continue
                try:
                    values[name] = yaml.safe_load(cell)
                except (yaml.YAMLError, ValueError):
                    mistakes.append(f"{name} ({where}): got '{cell}', expected a value as in a preset")
            yield _row(where, values, dict.fromkeys(values, where), mistakes)
    except csv.Error as error:
        where = f"{path}, line {line}"
        yield Row(where, mistakes=(f"{where}: broken CSV ({error})",))


def _told_delimiter(text: str) -> tuple[str, str]:
    """Return what a first line `sep=;`, as spreadsheets write it, names, and the text after it."""
    first, _, rest = text.partition("\n")
    told = first.strip("\r\ufeff")
    return (told[4], rest) if len(told) == 5 and told.lower().startswith("sep=") else ("", text)


def _delimiter(text: str) -> str:
    """Return comma, semicolon or tab: the one that splits the first line into most names that are known."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    known = {*FILES, *keys_of(AllSettings.model_fields), *AllSettings.model_fields}

    def names(delimiter: str) -> int:
        cells = [cell.strip().strip('"').strip().replace("-", "_") for cell in first.split(delimiter)]
        return sum(cell in known for cell in cells)

    return max(DELIMITERS, key=names)  # the first of equals


def _yaml(path: Path, text: str) -> Iterator[Row]:
    import yaml

    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # also a date that can't be
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        yield Row(where, mistakes=(f"{where}: broken YAML ({getattr(error, 'problem', None) or error})",))
        return
    if content is None:
        return
    if not isinstance(content, list) or node is None:
        yield Row(str(path), mistakes=(f"{path}: got {type(content).__name__}, expected a list of '- audio: FILE' …",))
        return
    for value, part in zip(content, node.value, strict=True):
        where = f"{path}, line {part.start_mark.line + 1}"
        if not isinstance(value, dict):
            yield Row(where, mistakes=(_no_mapping(where, value),))
            continue
        keys = [(str(key.value), f"{path}, line {key.start_mark.line + 1}") for key, _ in _own(part)]
        mistakes = _twice([name for name, _ in keys], where)
        values = {str(name): inner for name, inner in value.items()}
        yield _row(where, values, {**dict.fromkeys(values, where), **dict(keys)}, mistakes)


def _own(node: yaml.Node) -> list[Any]:
    return [pair for pair in node.value if isinstance(pair, tuple)]


def _no_mapping(where: str, value: Any) -> str:
    return f"{where}: got {type(value).__name__}, expected settings by name, audio among them"


def _twice(names: list[str], where: str) -> list[str]:
    again = [name for index, name in enumerate(names) if name in names[:index]]
    return [f"{where}: '{name}' stands there twice" for name in dict.fromkeys(again)]


def _from_folder(row: Row, folder: Path) -> Row:
    """Return a row whose files are named from where the program runs."""
    values = dict(row.values)
    for name in ("audio", "image", "weights"):
        own = EMBEDDED_PICTURES if name == "image" else (str(EMBEDDED),)
        if isinstance(values.get(name), str) and values[name].strip() and str(Path(values[name])) not in own:
            values[name] = str(folder / values[name])
    loras = values.get("lora")
    if isinstance(loras, str | list):
        values["lora"] = [_near(each, folder) for each in ([loras] if isinstance(loras, str) else loras)]
    subtitles = values.get("subtitles")
    if isinstance(subtitles, str | list):
        several = [subtitles] if isinstance(subtitles, str) else subtitles
        values["subtitles"] = [_subtitles_near(each, folder) for each in several]
    return Row(row.where, values, row.places, row.mistakes)


def _subtitles_near(text: Any, folder: Path) -> Any:
    code, colon, file = text.partition(":") if isinstance(text, str) else ("", "", "")
    return f"{code}:{folder / file.strip()}" if colon and file.strip() else text  # the settings say what is wrong


def _near(lora: Any, folder: Path) -> Any:
    if not isinstance(lora, str):
        return lora
    try:
        file, _ = parse_lora(lora)
    except ValueError:
        return lora  # the settings say what is wrong
    if Path(file) == EMBEDDED_STUDENT:
        return lora
    return str(folder / file) + lora[len(file) :]
