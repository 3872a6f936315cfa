"""Names of settings as people write them: a flag, a key in a file and a variable are one word; fields bear their units."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import cache
from typing import Any

from avatarctl import console

# Field -> its name for people, where they differ.
KEYS = {
    "start_s": "start",
    "duration_s": "duration",
    "loudness_dbfs": "loudness",
    "checkpoint_every_s": "checkpoint_every",
    "contact_sheet_every_s": "contact_sheet",
    "sizes": "size",
}
# Second names of flags.
ALSO = {"resolution": "size"}


def key_of(field: str, fields: Collection[str]) -> str:
    """Return the name of a setting for people; ``fields``: those of its settings, since training counts some in steps too."""
    key = KEYS.get(field, field)
    return field if key in fields else key


def keys_of(fields: Iterable[str]) -> dict[str, str]:
    """Return name for people -> field, of all fields."""
    all_fields = list(fields)
    return {key_of(field, all_fields): field for field in all_fields}


def flag_of(field: str, fields: Collection[str]) -> str:
    """Return the flag of a setting."""
    return "--" + key_of(field, fields).replace("_", "-")


def to_fields(
    values: Mapping[str, Any], places: Mapping[str, str], fields: Collection[str], note_old: bool = True
) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """Return values and places by field, and what is there under two names; what is no setting keeps its name.

    A name may have dashes, as flags have. The old one of a setting works, with a note: in Python it is the field's.
    """
    known = keys_of(fields)
    found: dict[str, Any] = {}
    renamed: dict[str, str] = {}
    twice = []
    for name, value in values.items():
        key = str(name).replace("-", "_")
        key = ALSO.get(key, key) if key not in known else key
        field = known.get(key, key if key in fields else name)
        if note_old and field in fields and key == field and key_of(field, fields) != field:
            place = places.get(str(name), "")
            note_old_name(key, key_of(field, fields), place.rpartition(", line ")[0] or place)
        if field in found:
            place = places.get(str(name), str(name))
            twice.append(f"{place}: '{name}' stands there twice, as {_written(renamed, field)} too")
        found[field] = value
        renamed[str(name)] = field
    moved = {".".join((renamed.get(head, head), *rest)): place for head, rest, place in _split(places)}
    return found, moved, twice


def _written(renamed: Mapping[str, str], field: str) -> str:
    return next(name for name, to in renamed.items() if to == field)


def _split(places: Mapping[str, str]) -> Iterable[tuple[str, list[str], str]]:
    for name, place in places.items():
        head, *rest = name.split(".")
        yield head, rest, place


@cache
def note_old_name(old: str, key: str, where: str) -> None:
    """Tell once per file that a setting has another name now."""
    console.note(f"deprecated: use {key} instead of {old}" + (f" ({where})" if where else ""))
