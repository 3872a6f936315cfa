"""Write files that are whole or absent after a kill, and turn a full disk into a clear error."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from avatarctl import jsontext
from avatarctl.errors import DeviceError, InputFileError
from avatarctl.paths import derived

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
PART = ".part"
SEAL_IN_LINE, SEAL_LETTERS = b', "seal": "', 16


def replace(path: Path, data: bytes, make: bool = True) -> None:
    """Write a file in one step: beside the target, flushed, renamed, the folder flushed. Makes the folder if ``make``."""
    if make:
        make_folder(path.parent)
    part = part_of(path)
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        flush_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Return a path for a library to write to; then it is flushed and becomes ``path`` in one step, after an error it is removed.

    The rights are those of any new file, whatever the library gives its own.
    """
    make_folder(path.parent)
    part = part_of(path)
    try:
        part.touch()
        rights = part.stat().st_mode
        yield part
        part.chmod(rights)
        with part.open("rb+") as file:  # some systems flush only what is open for writing
            os.fsync(file.fileno())
        part.replace(path)
        flush_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def same_file(source: Path, target: Path) -> None:
    """Let a path be another name of a file, in one step; a copy where the file system has no links."""
    part = part_of(target)
    try:
        os.link(source, part)
    except OSError:
        with beside(target) as copied:
            shutil.copyfile(source, copied)
        return
    try:
        os.replace(part, target)
        flush_folder(target.parent)
    finally:
        part.unlink(missing_ok=True)  # renaming to another name of the same file leaves both


def through(path: Path) -> Path:
    """Return the file that a path of the user stands for: itself, or what its symbolic links lead to, there or not."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def make_folder(folder: Path) -> None:
    """Make a folder and those above it that lack, each durable in the one above it."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    flush_folder(folder.parent)


def append(path: Path, data: bytes) -> None:
    """Append to a file that is there, flushed; after an error the file is as it was."""
    with path.open("r+b") as file:
        before = file.seek(0, os.SEEK_END)
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                os.ftruncate(file.fileno(), before)
            raise


def part_of(path: Path) -> Path:
    """Return the temporary path beside ``path``; the process's number keeps two writers apart."""
    return derived(path, ".", f".{os.getpid()}{PART}")


def flush_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    if os.name != "posix":
        return  # other systems flush a rename with the file
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def guarded(path: Path, full: str, elsewhere: str) -> Iterator[None]:
    """Turn a full disk (hint: ``full``) and an unwritable folder (hint: ``elsewhere``) into errors."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL_DISK:
            raise DeviceError(f"{path}: the disk is full", full) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise InputFileError(f"{path}: got a folder that can't be written ({error.strerror})", elsewhere) from error
        # EEXIST: a folder was to be made where a file is.
        if error.errno in (errno.EIO, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EISDIR):
            raise InputFileError(f"{path}: can't be written ({error.strerror})", elsewhere) from error
        raise


def to_json(content: Mapping[str, Any]) -> bytes:
    """Return readable JSON whose bytes depend on the content alone."""
    return (jsontext.dumps(content, indent=1, sort_keys=True) + "\n").encode()


def read_json(path: Path) -> dict[str, Any] | None:
    """Return a JSON object from a file, or None when it is missing or not one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, RecursionError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None
        raise
    return content if isinstance(content, dict) else None


def sealed(content: Mapping[str, Any]) -> bytes:
    """Return JSON with the checksum of its content."""
    return to_json({**content, "seal": _seal(content)})


def unsealed(path: Path) -> dict[str, Any] | None:
    """Return what was sealed, or None when the file is missing or not what was written."""
    content = read_json(path)
    return content if content is not None and content.pop("seal", None) == _seal(content) else None


def sealed_line(content: Mapping[str, Any]) -> bytes:
    """Return one line of JSON that ends with the checksum of what stands before it; for files that are appended to."""
    text = jsontext.dumps(content)[:-1].encode()
    return text + SEAL_IN_LINE + hashlib.sha256(text).hexdigest()[:SEAL_LETTERS].encode() + b'"}\n'


def unsealed_line(line: bytes) -> dict[str, Any] | None:
    """Return what :func:`sealed_line` wrote, or None for a line (without its end) that isn't what was written."""
    text, _, seal = line.rpartition(SEAL_IN_LINE)
    if not text or seal != hashlib.sha256(text).hexdigest()[:SEAL_LETTERS].encode() + b'"}':
        return None
    content: dict[str, Any] = json.loads(text + b"}")
    return content


def _seal(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(to_json(content)).hexdigest()


def digest(path: Path) -> str | None:
    """Return the SHA-256 of a file of any size, or None when it isn't there."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None
