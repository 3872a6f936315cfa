"""The folders: presets and settings of the user, weights, caches, and what is shipped."""

from __future__ import annotations

import os
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


EMBEDDED = Path(
    "puppet"
)  # the word that means the embedded avatar where a path of weights or of a picture is asked for


def weights_place(given: Path | None) -> Path | None:
    """Return the folder of weights that is meant: ``puppet`` is the embedded avatar's, anything else itself."""
    return embedded_avatar() / "weights" if given == EMBEDDED else given


def picture_place(given: Path | None) -> Path | None:
    """Return the picture that is meant: ``puppet`` is the embedded avatar's, anything else itself."""
    return embedded_avatar() / "samples" / "picture.png" if given == EMBEDDED else given


def embedded_avatar() -> Path:
    """Return the folder of the avatar that is shipped in the package: ``weights/`` and ``samples/``."""
    return Path(__file__).parent / "puppet"
