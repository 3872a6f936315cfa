"""Show that docs/formats.md says of every format what happens."""

from __future__ import annotations

import pytest
from format_tables import SECTIONS, tried, written


@pytest.mark.parametrize("section", SECTIONS)
def test_the_page_says_what_happens(section: str) -> None:
    assert tried(section).splitlines() == written(section).splitlines(), "run python tests/format_tables.py"
