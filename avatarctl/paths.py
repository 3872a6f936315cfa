"""The folders: presets and settings of the user, weights, caches, and what is shipped."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from functools import lru_cache
from pathlib import Path

APP = "avatarctl"


def _home(kind: str) -> Path:
    if home := os.environ.get("AVATARCTL_HOME"):
        return Path(home) / kind
    import platformdirs

    return Path(getattr(platformdirs, f"user_{kind}_dir")(APP))


def config_folder() -> Path:
    """Return the folder of the user's settings (``AVATARCTL_HOME``/config, or where the system keeps such)."""
    return _home("config")


def cache_folder() -> Path:
    """Return the folder for what can be made again."""
    return _home("cache")


def data_folder() -> Path:
    """Return the folder for what can't: weights."""
    return _home("data")


def weights_folder() -> Path:
    """Return the folder of the released weights (``AVATARCTL_WEIGHTS``, else data/weights)."""
    return Path(os.environ.get("AVATARCTL_WEIGHTS") or data_folder() / "weights")


def shipped_presets() -> Path:
    """Return the folder of shipped presets: in the installed package, or in a source checkout."""
    package = Path(__file__).parent
    installed = package / "_presets"
    return installed if installed.is_dir() else package.parent / "presets"


def preset_folders(kind: str = "render") -> list[Path]:
    """Return where presets are looked for, the user's first."""
    return [config_folder() / "presets" / kind, shipped_presets() / kind]


# The words that mean the embedded avatar where a path of weights or of a picture is asked for; it has three pictures.
EMBEDDED = Path("puppet")
EMBEDDED_PICTURES = {"puppet": "picture.png", "puppet-2": "picture-2.png", "puppet-3": "picture-3.png"}


# The word that means the embedded avatar's few-step student where a LoRA is asked for, and its file beside the weights.
EMBEDDED_STUDENT, STUDENT_FILE = Path("puppet-student"), "student.safetensors"


def weights_place(given: Path | None) -> Path | None:
    """Return the folder of weights that is meant: ``puppet`` is the embedded avatar's, anything else itself."""
    return embedded_avatar() / "weights" if given == EMBEDDED else given


def picture_place(given: Path | None) -> Path | None:
    """Return the picture that is meant: ``puppet``, ``puppet-2`` and ``puppet-3`` are the embedded avatar's, else itself."""
    name = EMBEDDED_PICTURES.get(str(given))
    return embedded_avatar() / "samples" / name if name else given


def student_place(given: Path) -> Path:
    """Return the LoRA that is meant: ``puppet-student`` is the embedded avatar's, anything else itself."""
    return embedded_avatar() / "weights" / STUDENT_FILE if given == EMBEDDED_STUDENT else given


def embedded_avatar() -> Path:
    """Return the folder of the avatar that is shipped in the package: ``weights/`` and ``samples/``."""
    return Path(__file__).parent / "puppet"


# -- Names of files -------------------------------------------------------------------------------------------------

LONGEST_NAME = 255  # bytes of one name in a folder, on all common file systems


def derived(path: Path, before: str = "", after: str = "") -> Path:
    """Return the path beside ``path`` whose name is that of ``path`` between ``before`` and ``after``.

    A name that would be too long for a file system is shortened; a hash of the whole one tells it from others.
    """
    return path.with_name(fitted(path.name, before, after))


def fitted(name: str, before: str = "", after: str = "") -> str:
    """Return ``before`` + ``name`` + ``after``, with ``name`` shortened where the whole is too long for a file system."""
    whole = before + name + after
    if len(os.fsencode(whole)) <= LONGEST_NAME:
        return whole
    mark = "-" + hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
    room = LONGEST_NAME - len(os.fsencode(before + mark + after))
    # Cut between characters; a byte that is no character is left out: the hash knows it.
    return before + os.fsencode(name)[:room].decode("utf-8", "ignore") + mark + after


HERE_IS_GONE = ("the current folder was deleted or moved", "go to one that is there, such as: cd ~")


def here_is_gone() -> bool:
    """Return whether the folder that the program runs in was deleted."""
    try:
        return not Path.cwd().is_dir()
    except FileNotFoundError:
        return True


def composed(name: str) -> str:
    """Return a name with each accented letter as one character (NFC): names that look alike become equal."""
    return unicodedata.normalize("NFC", name)


def as_spelled(path: Path) -> Path:
    """Return ``path`` as its folders spell it: an é may be one character there or two, and be meant all the same.

    A path that is there as it is, or in no spelling or more than one, is returned unchanged.
    """
    if str(path).isascii() or not path.name or os.path.lexists(path):
        return path
    folder = as_spelled(path.parent)
    try:
        alike = _spellings(folder, folder.stat().st_mtime_ns).get(composed(path.name), ())
    except OSError:
        return path
    return folder / alike[0] if len(alike) == 1 else path


@lru_cache(maxsize=64)
def _spellings(folder: Path, _changed_ns: int) -> dict[str, tuple[str, ...]]:
    """Return the names in a folder by their composed form; its time of change sees to it that they aren't old ones."""
    found: dict[str, tuple[str, ...]] = {}
    for path in sorted(folder.iterdir()):
        found[composed(path.name)] = (*found.get(composed(path.name), ()), path.name)
    return found
