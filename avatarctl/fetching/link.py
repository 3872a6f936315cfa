"""Link a file of this machine into the weights folder, without copying its bytes."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Literal

from avatarctl import durable

# What a file system says that has no hard links, or not from there.
NO_HARD_LINK = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
NO_SYMLINK = 1314  # of Windows, without developer mode


def link(source: Path, target: Path) -> Literal["hard link", "symbolic link", "copy"]:
    """Make ``target`` a hard link to ``source``, or where that can't be, a symbolic one, or a copy; replaces what is there."""
    source = source.resolve()
    part = durable.part_of(target)
    part.unlink(missing_ok=True)
    made: Literal["hard link", "symbolic link", "copy"] = "hard link"
    try:
        os.link(source, part)
    except OSError as error:
        if error.errno not in NO_HARD_LINK:
            raise
        try:
            part.symlink_to(source)
            made = "symbolic link"
        except OSError as second:
            if getattr(second, "winerror", None) != NO_SYMLINK and second.errno not in NO_HARD_LINK:
                raise
            shutil.copyfile(source, part)
            made = "copy"
    if target.exists() and part.samefile(target):
        part.unlink()  # renaming one name of a file to another does nothing
    else:
        part.replace(target)
    durable.flush_folder(target.parent)
    return made
