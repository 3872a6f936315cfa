"""Test helper: README and docs, their code blocks, and why a block can't run here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the reason for which it isn't run, if the page names one."""

    page: Path
    line: int
    language: str
    text: str
    not_run: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"

    def lines(self) -> list[str]:
        """Return its command lines, joined where they continue, without comments."""
        joined = self.text.replace("\\\n", " ")
        return [line for each in joined.splitlines() if (line := re.sub(r"(^|\s+)# .*$", "", each).strip())]


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page; ``<!-- not run: REASON -->`` right above one says why it can't run."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"(?:<!-- not run: (.*?) -->\n)?```(\w*)\n(.*?)```", text, re.S)
    return [Block(page, text[: each.start(2)].count("\n") + 1, each[2], each[3], each[1] or "") for each in found]


ALL = [block for page in PAGES for block in blocks(page)]
