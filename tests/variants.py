"""Variants of a test of which CI runs some, and ``pytest -m long`` the rest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def some(values: Iterable[Any], *in_ci: Any) -> list[Any]:
    """Return the values for ``parametrize``; those that aren't named are left to ``-m long``.

    A tuple holds the values of several arguments.
    """
    return [value if value in in_ci else _left(value) for value in values]


def _left(value: Any) -> Any:
    return pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.long)
