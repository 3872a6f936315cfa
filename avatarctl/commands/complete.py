"""Words that a shell offers after TAB: files by their endings, presets with what they are for, voices, devices."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from avatarctl.paths import EMBEDDED_PICTURES

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif")
VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".m4v", ".avi")
RECORDINGS = (
    ".wav",
    ".mp3",
    ".m4a",
    ".m4b",
    ".aac",
    ".flac",
    ".ogg",
    ".oga",
    ".opus",
    ".wma",
    ".aif",
    ".aiff",
    ".amr",
    ".mka",
    *VIDEOS,
)
YAML = (".yaml", ".yml")


def files(incomplete: str, endings: tuple[str, ...]) -> list[str]:
    """Return files with one of these endings, and folders, that begin with ``incomplete``.

    What stands in a single matching folder is offered too: else the shell would end the word after the slash.
    """
    folder, slash, begun = incomplete.rpartition("/")
    found = _listed(Path(f"{folder}/" if slash else "."), f"{folder}{slash}", begun, endings)
    if len(found) == 1 and found[0].endswith("/"):
        found += _listed(Path(found[0]), found[0], "", endings)
    return found


def _listed(folder: Path, before: str, begun: str, endings: tuple[str, ...]) -> list[str]:
    try:
        entries = sorted(folder.expanduser().iterdir())
    except OSError:
        return []
    shown = [each for each in entries if each.name.startswith(begun) and (begun or not each.name.startswith("."))]
    return [
        f"{before}{each.name}{'/' if each.is_dir() else ''}"
        for each in shown
        if each.is_dir() or each.name.lower().endswith(endings)
    ]


def pictures(incomplete: str) -> list[str]:
    """Return pictures, and ``puppet`` and its like, which are the embedded avatar's."""
    return [
        *(word for word in EMBEDDED_PICTURES if incomplete and word.startswith(incomplete)),
        *files(incomplete, PICTURES),
    ]


def recordings(incomplete: str) -> list[str]:
    """Return recordings and videos."""
    return files(incomplete, RECORDINGS)


def loras(incomplete: str) -> list[str]:
    """Return files that may be LoRAs."""
    return files(incomplete, (".safetensors",))


def devices(incomplete: str) -> list[tuple[str, str]]:
    """Return names of devices."""
    known = [("auto", "the first GPU, else the CPU"), ("cpu", "the CPU"), ("cuda", "the first GPU")]
    return [(name, help_) for name, help_ in known if name.startswith(incomplete)]


def voices(incomplete: str) -> list[tuple[str, str]]:
    """Return the voices that espeak-ng has, each with its language."""
    program = shutil.which("espeak-ng")
    if program is None:
        return []
    told = subprocess.run([program, "--voices"], capture_output=True, text=True, check=False, timeout=5).stdout
    rows = [line.split() for line in told.splitlines()[1:]]
    found = [(row[1], row[3].replace("_", " ")) for row in rows if len(row) > 3]
    default = [("en-us+f3", "English (America), a woman's voice")]
    return [(name, language) for name, language in [*default, *found] if name.startswith(incomplete)]


def presets(incomplete: str, *kinds: str) -> list[tuple[str, str]]:
    """Return presets of these kinds with what each is for, and YAML files."""
    from avatarctl.errors import AvatarError
    from avatarctl.settings import presets

    found = {}
    for kind in kinds:
        for name in sorted(presets.names(kind)):
            if name.startswith(incomplete) and name not in found:
                try:
                    found[name] = presets.load(name, kind).description
                except AvatarError:  # a broken one is still a name
                    found[name] = "broken: see `avatarctl presets check`"
    own = [(name, "") for name in files(incomplete, YAML)] if "/" in incomplete or "." in incomplete else []
    return [*found.items(), *own]


def render_presets(incomplete: str) -> list[tuple[str, str]]:
    """Return presets of renders."""
    return presets(incomplete, "render")


def train_presets(incomplete: str) -> list[tuple[str, str]]:
    """Return presets of full training."""
    return presets(incomplete, "train")


def lora_presets(incomplete: str) -> list[tuple[str, str]]:
    """Return presets of LoRA training."""
    return presets(incomplete, "lora")


def data_presets(incomplete: str) -> list[tuple[str, str]]:
    """Return presets of encoding."""
    return presets(incomplete, "data")


def prepare_presets(incomplete: str) -> list[tuple[str, str]]:
    """Return presets of preparing footage."""
    return presets(incomplete, "prepare")
