"""What several commands do alike: have the flags of another one, read settings given as NAME=VALUE."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from avatarctl.errors import UsageError

Function = TypeVar("Function", bound=Callable[..., None])


def with_flags_of(other: Callable[..., None], but: Collection[str], after: str) -> Callable[[Function], Function]:
    """Let a command that ends in ``**flags`` have the parameters of ``other``, save those named in ``but``.

    They stand after its parameter ``after``; Typer, help pages and completions see them as its own.
    """

    def dress(function: Function) -> Function:
        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(function, eval_str=True).parameters.values():
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
                parameters.append(parameter)
            if parameter.name == after:
                theirs = inspect.signature(other, eval_str=True).parameters
                parameters += [each for name, each in theirs.items() if name not in but]
        dressed: Any = function
        dressed.__signature__ = inspect.Signature(parameters)
        dressed.__annotations__ = {each.name: each.annotation for each in parameters}
        return function

    return dress


def parsed_settings(settings: Sequence[str], flags: Mapping[str, Any], such_as: str) -> dict[str, Any]:
    """Return settings given as NAME=VALUE, each value read as in a preset, with those of ``flags`` that aren't None.

    Raises ``UsageError`` for what isn't such a pair (``such_as``: a good one), and for what a flag says too.
    """
    import yaml

    values: dict[str, Any] = {}
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"--set: got '{text}', expected NAME=VALUE", f"such as --set {such_as}")
        try:
            values[name.strip().replace("-", "_")] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UsageError(
                f"--set: got '{text}', expected a value as in a preset", f"such as --set {such_as}"
            ) from error
    given = {name: value for name, value in flags.items() if value is not None}
    if twice := sorted(set(given) & set(values)):
        flag = f"--{twice[0].replace('_', '-')}"
        raise UsageError(f"--set: got {twice[0]}, which {flag} says too, expected one of them", f"leave out {flag}")
    return {**values, **given}
