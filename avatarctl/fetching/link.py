"""Link a file of this machine into the weights folder, without copying its bytes."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Literal

from avatarctl import durable

# What a file system says that has no hard links, or not from there.
NO_HARD_LINK = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS)


def link(source: Path, target: Path) -> Literal["hard link", "symbolic link"]:
    """Make ``target`` a hard link to ``source``, or where that can't be, a symbolic one; replaces what is there."""
    source = source.resolve()
    part = durable.part_of(target)
    part.unlink(missing_ok=True)
    made: Literal["hard link", "symbolic link"] = "hard link"
    try:
        os.link(source, part)
    except OSError as error:
        if error.errno not in NO_HARD_LINK:
            raise
        part.symlink_to(source)
        made = "symbolic link"
    if target.exists() and part.samefile(target):
        part.unlink()  # renaming one name of a file to another does nothing
    else:
        part.replace(target)
    durable.flush_folder(target.parent)
    return made
