"""Read text that people wrote: UTF-8, or UTF-16 and UTF-32 that say so; anything else is refused with the command that helps."""

from __future__ import annotations

import codecs
import shlex
from pathlib import Path

from avatarctl.errors import AvatarError, UsageError

# The longer marks first: UTF-32's begins as UTF-16's does.
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path: Path, refusal: type[AvatarError] = UsageError) -> str:
    """Return the text of a file; raises ``refusal`` when it can't be read or its encoding isn't known.

    Nothing is guessed: a file in Windows-1252 read as GBK, or the other way round, would be wrong words without an error.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise refusal(f"{path}: can't be read ({error.strerror})", "check the path and its rights") from error
    encoding = next((encoding for mark, encoding in MARKS if data.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in data:
        half = data[1::2].count(0) >= data[::2].count(0)
        raise refusal(
            f"{path}: can't be read as text (it has zeros, as UTF-16 without a byte order mark)",
            _recode(path, "UTF-16LE" if half else "UTF-16BE"),
        )
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise refusal(
            f"{path}: can't be read as {encoding.removesuffix('-sig').upper()} (line {line}: {error.reason})",
            _recode(path, "CP1252", "with the file's own encoding for CP1252, such as GB18030 or SHIFT_JIS"),
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _recode(path: Path, encoding: str, more: str = "") -> str:
    new = path.with_name(f"{path.stem}-utf8{path.suffix}")
    command = f"iconv -f {encoding} -t UTF-8 {shlex.quote(str(path))} > {shlex.quote(str(new))}"
    return f"use it saved as UTF-8: {command}" + (f" ({more})" if more else "")
