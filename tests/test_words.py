"""Tests of the words that people read: help pages, messages, settings and presets speak the field's language."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "avatarctl").rglob("*.py"))
# Words of a private dialect -> what people search for.
WORDS = {
    r"go(es|ing)? on|went on|gone on": "resume, continue",
    r"mend(s|ed)?": "fix",
    r"anew": "again, start over",
    r"ma(d|k)es? (it |them )?again": "render again, compute again",
    r"luggage": "payload",
    r"thrown away": "discarded",
}


def dialect(text: str) -> list[str]:
    """Return the words of a text that have a better one."""
    return [
        f"{found[0]}: {better}" for word, better in WORDS.items() for found in re.finditer(rf"\b({word})\b", text, re.I)
    ]


def said(path: Path) -> list[str]:
    """Return what a file may show to people: texts in it, and of commands and settings the docstrings too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)]
    docstrings = {id(node.body[0].value) for node in nodes if ast.get_docstring(node, clean=False) is not None}  # type: ignore[attr-defined]
    texts = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
    ]
    if path.parent.name == "commands":
        shown = [node for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
        texts += [ast.get_docstring(node) or "" for node in shown]
    return texts


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_messages_and_help_speak_the_fields_words(path: Path) -> None:
    assert [found for text in said(path) for found in dialect(text)] == []


@pytest.mark.parametrize("path", sorted((ROOT / "presets").rglob("*.yaml")), ids=lambda path: path.name)
def test_presets_speak_the_fields_words(path: Path) -> None:
    assert dialect(path.read_text(encoding="utf-8")) == []


def test_the_dialect_is_noticed() -> None:
    assert dialect("the render goes on") == ["goes on: resume, continue"]
    assert dialect("begin anew; mend it") == ["mend: fix", "anew: again, start over"]
    assert dialect("amend the recommendation, ongoing") == []
