"""Give one command the flags of another, so that both have the same ones without a second list."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from typing import Any, TypeVar

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
