"""Find clips in a folder, a list or a video: where pictures, sound, masks and caption lie. Decodes nothing.

Two forms of clips, which may lie side by side at any depth:

- a clip folder, as released: ``images/`` (numbered PNG or JPEG) or ``sub_clip.mp4`` alone; ``audio.wav``, or the sound of
  ``sub_clip.mp4``; ``face_masks/`` and ``lip_masks/`` (numbered like the pictures), which may be missing;
- a video ``NAME.mp4`` (or of any ending of films) with sound; its masks, which may be missing, are
  ``masks/NAME.face/`` and ``masks/NAME.lip/`` (numbered pictures), or ``masks/NAME.face.mp4`` and ``masks/NAME.lip.mp4``.

White is inside a mask; there is one mask for each picture. ``NAME.txt`` beside the video or the clip folder is its caption.
A folder named speech, singing or dancing above a clip tells its kind.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from avatarctl import durable, jsontext
from avatarctl.errors import InputFileError
from avatarctl.formats import FILMS
from avatarctl.paths import as_spelled
from avatarctl.settings.encode import EncodeSettings
from avatarctl.textfiles import read_text

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
KINDS = ("speech", "singing", "dancing")
MASKS = "masks"
OF_PREPARE = ".prepare/about.json"
REPORTS = ("prepare.jsonl", "summary.json", "contact-sheet.jpg")  # of `data prepare`, beside its clips


@dataclass(frozen=True)
class Clip:
    """One clip. ``name``: its path seen from SOURCE, the same on every machine; ``path``: the video or clip folder."""

    name: str
    path: Path
    pictures: Path
    """A video, or a folder of numbered pictures."""
    timing: Path | None
    """The video that tells the rate of numbered pictures."""
    sound: Path | None
    face: Path | None
    lip: Path | None
    caption: Path | None
    kind: str | None

    @property
    def is_picture(self) -> bool:
        """Whether it is a picture alone."""
        return self.sound is None and self.path == self.pictures and self.path.suffix.lower() in PICTURES

    @property
    def key(self) -> str:
        """The clip's name in the cache: letters, digits, - and _ alone, and different for different names."""
        plain = re.sub(r"[^A-Za-z0-9]+", "_", self.name).strip("_")[-60:]
        return f"{plain}-{hashlib.sha256(os.fsencode(self.name)).hexdigest()[:10]}"

    def files(self) -> Iterator[tuple[str, Path]]:
        """Go through every file that the clip is made of, each with a name that doesn't depend on where it lies."""
        parts = {"pictures": self.pictures, "timing": self.timing, "sound": self.sound, "caption": self.caption}
        for role, path in {**parts, "face": self.face, "lip": self.lip}.items():
            if path is not None and path.is_dir():
                for file in sorted(path.iterdir()):
                    if file.suffix.lower() in PICTURES:
                        yield f"{role}/{file.name}", file
            elif path is not None:
                yield role, path

    def stamp(self) -> str:
        """Return a hash of sizes and times of change: while it is the same, the files need not be read again."""
        digest = hashlib.sha256()
        for name, path in self.files():
            try:
                status = path.stat()
            except OSError:  # a file that is listed and gone, or a link to nothing: reading will tell
                digest.update(os.fsencode(f"{name} absent\n"))
                continue
            digest.update(os.fsencode(f"{name} {status.st_size} {status.st_mtime_ns}\n"))
        return digest.hexdigest()

    def content(self) -> str:
        """Return a hash of what is in the files; raises ``OSError`` for one that can't be read."""
        digest = hashlib.sha256()
        for name, path in self.files():
            digest.update(os.fsencode(f"{name} {durable.digest(path)}\n"))
        return digest.hexdigest()

    def prompt(self, settings: EncodeSettings) -> str:
        """Return the caption, or the prompt of the settings; raises ``InputFileError`` for a caption that isn't text."""
        if self.caption is None:
            return settings.prompt_of(self.kind)
        try:
            text = " ".join(read_text(self.caption, InputFileError).split())
        except InputFileError as error:  # the list of failures has messages alone
            told = error.message.replace(f"{self.caption}: ", f"{self.caption}: got a caption that ", 1)
            raise InputFileError(f"{told}; {error.hint}", error.hint) from error
        if not text:
            raise InputFileError(f"{self.caption}: got an empty caption, expected what happens in the clip, or no file")
        return text


def made_of(clip: Clip, prompt: str, recipe: str) -> str:
    """Return the hash of all that a clip's samples depend on: its files, its prompt, and the cache's recipe."""
    parts = [recipe, prompt, clip.content()]
    return hashlib.sha256(jsontext.dumps(parts).encode()).hexdigest()


def discover(source: Path, pictures: bool = False) -> list[Clip]:
    """Return the clips of a folder, a list of clips (.txt) or one video, ordered by name; ``pictures``: picture files too.

    Raises ``InputFileError`` for a SOURCE that isn't there, can't be read, or holds no clip.
    """
    try:
        found = {clip.key: clip for clip in _clips_of(source, pictures)}
    except OSError as error:
        raise InputFileError(f"{source}: can't be read ({error.strerror})", "check the path and its rights") from error
    if not found:
        raise InputFileError(
            f"{source}: got no clip, expected videos (.mp4, .mov, .mkv, .webm …) or clip folders (images/ and audio.wav)",
            "`avatarctl data encode --help` tells what a SOURCE looks like",
        )
    return sorted(found.values(), key=lambda clip: clip.name)


def is_prepared(path: Path) -> bool:
    """Return whether `data prepare` made a clip: it shows one shot."""
    return any((folder / OF_PREPARE).is_file() for folder in path.absolute().parents)


def passed_over(source: Path, clips: Sequence[Clip]) -> list[str]:
    """Return the files of a folder that belong to no clip, by their names seen from it; hidden ones are left out."""
    if not source.is_dir():
        return []
    folders = {clip.path for clip in clips if clip.path.is_dir()}
    ours = {path for clip in clips for path in (clip.path, clip.caption)}
    found = []
    for place, below, files in os.walk(source, followlinks=True):
        here = Path(place)
        below[:] = [name for name in below if name[0] != "." and name != MASKS and here / name not in folders]
        if os.path.realpath(here) in map(os.path.realpath, here.parents):
            below.clear()  # a link to a folder above would never end
        if here not in folders:
            of_prepare = REPORTS if REPORTS[0] in files else ()
            found += [
                here / name for name in files if name[0] != "." and here / name not in ours and name not in of_prepare
            ]
    return sorted(path.relative_to(source).as_posix() for path in found)


def _clips_of(source: Path, pictures: bool) -> Iterator[Clip]:
    if source.is_dir():
        yield from _walk(source, pictures)
    elif source.suffix.lower() == ".txt":
        yield from _listed(source)
    elif source.suffix.lower() in FILMS and source.exists():
        yield clip_at(source, source.name)
    elif not source.exists():
        raise InputFileError(f"{source}: got no such folder, expected clips", "check the path")
    else:
        raise InputFileError(
            f"{source}: got a '{source.suffix}' file, expected a folder, a list (.txt) or a video",
            "`avatarctl data encode --help` tells what a SOURCE looks like",
        )


def _walk(root: Path, pictures: bool) -> Iterator[Clip]:
    def unreadable(error: OSError) -> None:
        raise error

    if _is_clip_folder(root):
        yield clip_at(root, root.name)
        return
    seen = {os.path.realpath(root)}
    for place, folders, files in os.walk(root, onerror=unreadable, followlinks=True):
        here = Path(place)
        for name in sorted(folders):
            real = os.path.realpath(here / name)
            if name.startswith(".") or name == MASKS or real in seen:  # a link to a folder above would never end
                folders.remove(name)
                continue
            seen.add(real)
            if _is_clip_folder(here / name):
                folders.remove(name)
                yield clip_at(here / name, (here / name).relative_to(root).as_posix())
        for name in files:
            path = here / name
            wanted = (*FILMS, *PICTURES) if pictures else FILMS
            if path.suffix.lower() in wanted and not name.startswith("."):
                yield clip_at(path, path.relative_to(root).as_posix())


def _listed(path: Path) -> Iterator[Clip]:
    """Return the clips of a list, one path a line: absolute, or seen from the list's folder, the one above, or this one."""
    if not path.exists():
        raise InputFileError(f"{path}: got no such file, expected a list of clip folders", "check the path")
    lines = read_text(path, InputFileError).splitlines()
    for line in lines:
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        places = [base / text for base in (path.parent, path.parent.parent, Path())]
        # One that is nowhere is given as well: its place in the list of failures tells where it was looked for first.
        place = next((place for place in map(as_spelled, places) if place.exists()), places[0])
        inside = place.absolute().is_relative_to(path.parent.absolute())
        name = place.absolute().relative_to(path.parent.absolute()).as_posix() if inside else text
        yield clip_at(place, os.path.normpath(name))


def _is_clip_folder(folder: Path) -> bool:
    return (folder / "images").is_dir() or (folder / "sub_clip.mp4").is_file()


def clip_at(path: Path, name: str) -> Clip:
    """Return the clip that a video or a clip folder is."""
    kind = next((part for part in reversed(path.absolute().parts) if part in KINDS), None)
    if path.suffix.lower() in FILMS and not path.is_dir():
        caption = _there(path.with_suffix(".txt"))
        face, lip = (_mask_of(path, part) for part in ("face", "lip"))
        return Clip(name, path, path, None, path, face, lip, caption, kind)
    if path.suffix.lower() in PICTURES and not path.is_dir():
        return Clip(name, path, path, None, None, None, None, _there(path.with_suffix(".txt")), kind)
    film, images, sound = path / "sub_clip.mp4", path / "images", path / "audio.wav"
    return Clip(
        name=name,
        path=path,
        pictures=images if images.is_dir() else film,
        timing=_there(film) if images.is_dir() else None,
        sound=_there(sound) or _there(film),
        face=_there(path / "face_masks"),
        lip=_there(path / "lip_masks"),
        caption=_there(path.with_name(path.name + ".txt")),
        kind=kind,
    )


def _mask_of(video: Path, part: str) -> Path | None:
    folder = video.parent / MASKS
    names = [f"{video.stem}.{part}", *(f"{video.stem}.{part}{ending}" for ending in FILMS)]
    return next((there for name in names if (there := _there(folder / name))), None)


def _there(path: Path) -> Path | None:
    path = as_spelled(path)
    return path if path.exists() else None
