"""Write the tables of docs/formats.md from what really happens: `python tests/format_tables.py` after a change."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path[:0] = [
    str(Path(__file__).parent),
    str(Path(__file__).parent / "networks"),
    str(Path(__file__).parent / "audio"),
]

from picture_formats import picture_rows  # noqa: E402 (found by the line above)
from sound_formats import sound_rows  # noqa: E402

PAGE = Path(__file__).parents[1] / "docs" / "formats.md"
Row = tuple[str, str, str]
# Section of the page -> what tries the formats in a folder and returns rows: format, what was tried, what came of it.
SECTIONS: dict[str, Callable[[Path], Sequence[Row]]] = {"pictures": picture_rows, "sound": sound_rows}


def table(rows: Sequence[Row]) -> str:
    """Return rows as a table of Markdown."""
    lines = [("format", "tried", "result"), ("---", "---", "---"), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def marks(section: str) -> tuple[str, str]:
    """Return the lines between which a section's table stands."""
    return f"<!-- {section}: written by tests/format_tables.py -->", f"<!-- end of {section} -->"


def with_table(page: str, section: str, text: str) -> str:
    """Return the page with a section's table replaced."""
    begin, end = marks(section)
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def written(section: str) -> str:
    """Return the table that the page has."""
    begin, end = marks(section)
    return PAGE.read_text(encoding="utf-8").partition(begin)[2].partition(end)[0].strip()


def tried(section: str) -> str:
    """Return the table of what happens now."""
    with tempfile.TemporaryDirectory() as folder:
        return table(SECTIONS[section](Path(folder)))


def main() -> None:
    """Write all sections."""
    page = PAGE.read_text(encoding="utf-8")
    for section in SECTIONS:
        page = with_table(page, section, tried(section))
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
