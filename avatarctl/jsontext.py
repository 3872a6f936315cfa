"""Turn plain values into JSON text that every file and pipe can hold, names of files in any encoding included."""

from __future__ import annotations

import json
import re
from typing import Any

# Python holds a byte of a file name that is no UTF-8 as a lone surrogate (PEP 383), which no encoding can write.
_NO_CHARACTER = re.compile("[\ud800-\udfff]")


def dumps(content: Any, **options: Any) -> str:
    """Return JSON as readable text; a byte that is no character is written as its escape, which ``json.loads`` reads back."""
    text = json.dumps(content, ensure_ascii=False, **options)
    return _NO_CHARACTER.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
