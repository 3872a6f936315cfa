"""Build settings from plain values with one error that lists every mistake, and describe settings in words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from fractions import Fraction
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ValidationError

from avatarctl.errors import UsageError
from avatarctl.settings.base import Model, Settings
from avatarctl.settings.render import GuidancePass


def make(
    model: type[Model],
    values: Mapping[str, Any],
    places: Mapping[str, str] | None = None,
    mistakes: Sequence[str] = (),
) -> Model:
    """Build settings from plain values; every mistake is listed in one ``UsageError``.

    ``places`` says for a field (or ``guidance.1.text``) where its value came from: a flag, a line of a file.
    ``mistakes`` found before are listed first.
    """
    lines = list(mistakes)
    try:
        made = model.model_validate(dict(values))
    except ValidationError as error:
        lines += [_line(model, problem, places or {}) for problem in error.errors()]
    if lines:
        raise UsageError(
            "\n".join(dict.fromkeys(lines)), "`avatarctl presets show square` tells what each setting takes"
        )
    return made


def describe(model: type[Settings]) -> dict[str, tuple[str, Any, str]]:
    """Return field -> (type in words, default as a file has it, what it does), for help and documents."""
    defaults = model().model_dump(mode="json")
    return {
        name: (_type_words(field.annotation), defaults[name], field.description or "")
        for name, field in model.model_fields.items()
    }


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Return ", did you mean X?" for the closest known word, or nothing."""
    close = get_close_matches(word, known, n=1)
    return f", did you mean {close[0]}?" if close else ""


WORDS: dict[Any, str] = {
    type(None): "null",
    Path: "folder",
    tuple[int, int]: "WIDTHxHEIGHT",
    Fraction: "frames per second",
    GuidancePass: "{text, audio, tokens, weight}",
}


def _type_words(kind: Any) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if kind in WORDS:
        return WORDS[kind]
    if origin is Annotated:
        return _type_words(inner[0])
    if origin is Literal:
        return " | ".join(inner)
    if origin in (Union, UnionType):
        return " | ".join(_type_words(part) for part in inner)
    if origin is tuple:
        return f"list of {_type_words(inner[0])}" if inner[-1] is Ellipsis else "pair of " + _type_words(inner[0])
    return kind.__name__


def _line(model: type[Settings], problem: Any, places: Mapping[str, str]) -> str:
    # Drop the tag of the union, which is nothing a user wrote.
    path = [str(part) for part in problem["loc"] if part not in ("guidance name", "guidance table")]
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not path:  # a rule over several fields: its message begins with the field to change
        name, _, message = message.partition(": ")
        path = [name]
    given, kind = problem["input"], problem["type"]
    if kind == "extra_forbidden":
        known = list(model.model_fields if len(path) == 1 else GuidancePass.model_fields)
        message = "unknown setting" + did_you_mean(path[-1], known)
    elif kind == "missing":
        message = "missing"
    elif kind == "literal_error":
        wanted = problem["ctx"]["expected"]
        near = did_you_mean(given, re.findall(r"'([^']*)'", wanted)) if isinstance(given, str) else ""
        message = f"got '{given}', expected {wanted}{near}"
    elif kind != "value_error":
        wanted = re.sub(r"^Input should( be)? ", "expected ", message)
        message = f"got '{given}', {wanted}"
    return f"{'.'.join(path)}{_place(path, places)}: {message}"


def _place(path: Sequence[str], places: Mapping[str, str]) -> str:
    for length in range(len(path), 0, -1):
        if place := places.get(".".join(path[:length])):
            return f" ({place})"
    return ""
