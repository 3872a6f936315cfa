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
from avatarctl.settings.distill import Stage
from avatarctl.settings.names import key_of, keys_of
from avatarctl.settings.render import GuidancePass
from avatarctl.settings.values import parse_seconds

# Settings -> a preset that has them, and the flag that says so where its name doesn't.
EXAMPLES = {
    "TrainSettings": "full-1.3b",
    "EncodeSettings": "puppet --kind data",
    "EncodeJob": "puppet --kind data",
    "PrepareSettings": "talking-head",
    "PrepareJob": "talking-head",
}


def make(
    model: type[Model],
    values: Mapping[str, Any],
    places: Mapping[str, str] | None = None,
    mistakes: Sequence[str] = (),
    example: str = "",
    hint: str = "",
) -> Model:
    """Build settings from plain values; every mistake is listed in one ``UsageError``.

    ``places`` says for a field (or ``guidance.1.text``) where its value came from: a flag, a line of a file.
    ``mistakes`` found before are listed first. ``example``: the preset that the hint names, else one for such settings.
    ``hint``: what helps against ``mistakes``, where there are no others.
    """
    lines = list(mistakes)
    asked: list[str] = []
    try:
        made = model.model_validate(dict(values))
    except ValidationError as error:
        lines += [_line(model, problem, places or {}) for problem in error.errors()]
        asked = [_meant(model, problem) for problem in error.errors()]
    if lines:
        show = f"avatarctl presets show {example or EXAMPLES.get(model.__name__, 'square')}"
        if hint and not asked:
            raise UsageError("\n".join(dict.fromkeys(lines)), hint)
        if len(set(asked)) == 1 and asked[0]:
            raise UsageError("\n".join(dict.fromkeys(lines)), f"`{show} {asked[0]}` tells what {asked[0]} takes")
        raise UsageError("\n".join(dict.fromkeys(lines)), f"`{show} --long` tells what each setting takes")
    return made


def _meant(model: type[Settings], problem: Any) -> str:
    """Return the setting that a mistake is about, or the one that an unknown name is nearest to; "" where none is near."""
    name = str(problem["loc"][0]) if problem["loc"] else str(problem["msg"]).removeprefix("Value error, ").split(":")[0]
    key = key_of(name, model.model_fields)
    known = list(keys_of(model.model_fields))
    return key if key in known else next(iter(get_close_matches(key, known, n=1)), "")


def describe(model: type[Settings]) -> dict[str, tuple[str, Any, str]]:
    """Return setting, by its name for people -> (type in words, default as a file has it, what it does)."""
    defaults = model().model_dump(mode="json")
    return {
        key: (_type_words(field.annotation, field.metadata), defaults[name], field.description or "")
        for key, name in keys_of(model.model_fields).items()
        for field in (model.model_fields[name],)
    }


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Return ", did you mean X?" for the closest known word, or nothing."""
    close = get_close_matches(word, known, n=1)
    return f", did you mean {close[0]}?" if close else ""


WORDS: dict[Any, str] = {
    type(None): "null",
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    Path: "path",
    tuple[int, int]: "WIDTHxHEIGHT",
    Fraction: "frames per second",
    GuidancePass: "{text, audio, tokens, weight}",
    Stage: "{distill, distill_steps, steps, learning_rate, teacher_evaluations, own_states}",
}


def _type_words(kind: Any, rules: Sequence[Any] = ()) -> str:
    """Return a type in words, with its range: "whole number, 1 to 1000"; ``rules`` are what annotates the type."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _type_words(inner[0], [*inner[1:], *rules])
    if any(getattr(rule, "func", None) is parse_seconds for rule in rules):
        return ", ".join(["time", *_range(rules)])
    if kind in WORDS:
        return ", ".join([WORDS[kind], *_range(rules)])
    if origin is Literal:
        return " | ".join(inner)
    if origin in (Union, UnionType):
        return " | ".join(_type_words(part) for part in inner)
    if origin is tuple:
        one = _type_words(inner[0])
        many = f"{one}s" if one.isalpha() and one.islower() else one
        return f"list of {many}" if inner[-1] is Ellipsis else f"pair of {many}"
    if origin is dict:
        return "{name: number}"
    return kind.__name__


def _range(rules: Sequence[Any]) -> list[str]:
    """Return the range that the rules of a number (pydantic's Field, or what it makes of one) say, in words."""
    bounds: dict[str, Any] = {}
    for rule in rules:
        for each in (rule, *getattr(rule, "metadata", ())):
            bounds |= {name: getattr(each, name) for name in ("ge", "gt", "le", "lt") if hasattr(each, name)}
    if bounds.get("lt") == 2**63:  # what a file can hold: no rule of ours
        del bounds["lt"]
    low = str(bounds["ge"]) if "ge" in bounds else f"more than {bounds['gt']}" if "gt" in bounds else ""
    high = str(bounds["le"]) if "le" in bounds else f"less than {bounds['lt']}" if "lt" in bounds else ""
    if low and high:
        return [f"{low} to {high}"]
    return (
        [low if "gt" in bounds else f"{low} or more"]
        if low
        else [f"{high} or less" if "le" in bounds else high] * bool(high)
    )


def _line(model: type[Settings], problem: Any, places: Mapping[str, str]) -> str:
    # Drop the tag of the union, which is nothing a user wrote.
    path = [str(part) for part in problem["loc"] if part not in ("guidance name", "guidance table")]
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not path:  # a rule over several fields: its message begins with the field to change
        name, _, message = message.partition(": ")
        path = [name]
    given, kind = problem["input"], problem["type"]
    place = _place(path, places)
    path[0] = key_of(path[0], model.model_fields)
    if kind == "extra_forbidden":
        inner = Stage if path[0] == "stages" else GuidancePass
        known = list(keys_of(model.model_fields) if len(path) == 1 else inner.model_fields)
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
    return f"{'.'.join(path)}{place}: {message}"


def _place(path: Sequence[str], places: Mapping[str, str]) -> str:
    for length in range(len(path), 0, -1):
        if place := places.get(".".join(path[:length])):
            return f" ({place})"
    return ""
