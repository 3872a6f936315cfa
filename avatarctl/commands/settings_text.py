"""Settings as people read them: a table of 80 columns with a line on each setting, or everything about one of them."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

COLUMNS = 80
VALUE = 34  # columns of the values; a longer one is cut in the table, and whole in the longer form


def settings_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return settings as ``presets.explain`` tells them: value and source in a line, what each does in the next."""
    name = max((len(field) for field in rows), default=0)
    lines = [f"{'SETTING'.ljust(name)}  {'VALUE'.ljust(VALUE)}  FROM"]
    for field, row in rows.items():
        shown = _cut(_value(row["value"]))
        lines.append(f"{field.ljust(name)}  {shown.ljust(VALUE)}  {short(row['source'])}"[:COLUMNS].rstrip())
        lines += [f"    {line}" for line in textwrap.wrap(first_line(row["does"]), COLUMNS - 4)]
    return "\n".join(lines)


def _cut(value: str) -> str:
    """Return a value that fits its column: of a path the end counts, of anything else the beginning."""
    if len(value) <= VALUE:
        return value
    return f"…{value[1 - VALUE :]}" if Path(value).is_absolute() else f"{value[: VALUE - 1]}…"


def whole(field: str, row: Mapping[str, Any], kind: str) -> str:
    """Return everything about a setting: value, source, what it takes, its default, flag and variable, what it does."""
    from avatarctl.settings import presets
    from avatarctl.settings.check import describe

    _, default, _ = describe(presets.settings_class(kind))[field]
    facts = [
        ("from", row["source"]),
        ("takes", row["takes"]),
        ("default", _value(default)),
        ("in a preset", f"{field}: {_value(row['value'])}"),
        ("variable", f"{presets.PREFIX}{field.upper()}"),
    ]
    first, *more = row["does"].split("\n")
    paragraphs = [first, *(" ".join(part.split()) for part in "\n".join(more).split("\n\n"))]
    lines = [f"{field} = {_value(row['value'])}"]
    for part in paragraphs:
        lines += textwrap.wrap(part, COLUMNS, initial_indent="  ", subsequent_indent="  ")
    return "\n".join([*lines, *(f"  {name + ':':<12}  {fact}" for name, fact in facts)])


def first_line(does: str) -> str:
    """Return what a setting does, in a line."""
    return does.split("\n")[0]


def short(source: str) -> str:
    """Return where a value comes from without folders: ``draft, line 4``, ``--steps``, ``default``."""
    path, comma, line = source.rpartition(", line ")
    if comma:
        return f"{Path(path).stem}, line {line}"
    return Path(source).stem if source.endswith((".yaml", ".yml")) else source


def _value(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
