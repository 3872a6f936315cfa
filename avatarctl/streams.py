"""Keep a command running when nobody reads its output any more: what is written then is dropped, nothing else changes."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any, cast

# A pipe whose reader ended (`… 2>&1 | head -1`), a terminal that was closed.
UNREAD = (errno.EPIPE, errno.EIO)


class _MaybeUnread(io.FileIO):
    """A pipe or a terminal; what nobody reads any more counts as written."""

    def write(self, data: Any, /) -> int:
        """Write bytes; return how many."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in UNREAD:
                raise  # a file on a full disk
            return len(data)


def outlive_readers() -> None:
    """Let writing to stdout and stderr succeed when their reader is gone, or when there was none from the start."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the shell: >&-
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif type(stream) is io.TextIOWrapper and type(stream.buffer) in (io.BufferedWriter, io.FileIO):
            stream.flush()
            raw = _MaybeUnread(stream.fileno(), "w", closefd=False)
            unbuffered = type(stream.buffer) is io.FileIO  # PYTHONUNBUFFERED
            wrapped = io.TextIOWrapper(
                cast(Any, raw) if unbuffered else io.BufferedWriter(raw),
                encoding=stream.encoding,
                errors=stream.errors,
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )
            setattr(sys, name, wrapped)
