"""Check rows and turn them into the videos to render; all mistakes are reported at once. No torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from string import Formatter
from typing import Any

from avatarctl import ownership
from avatarctl.batch.rows import Row
from avatarctl.errors import AvatarError, InputFileError, UsageError
from avatarctl.paths import LONGEST_NAME, as_spelled, composed, fitted
from avatarctl.render.inputs import check_lora, usable_weights
from avatarctl.settings.check import did_you_mean, make
from avatarctl.settings.formats import SUFFIXES, format_of, home_of, one_of
from avatarctl.settings.languages import parse_subtitles
from avatarctl.settings.placement import PlacementSettings
from avatarctl.settings.render import AllSettings, RenderJob, RenderSettings
from avatarctl.settings.student import as_students_ask
from avatarctl.settings.values import lora_file, parse_lora
from avatarctl.weights import usable_separator

# Parts of messages by which a hint is chosen.
NO_PICTURE = "neither --image nor the preset names one"
SAME_NAME = "is the name of the video of"
OVERWRITES = "would overwrite an input"
NAME = "{stem}"
NAME_FIELDS = ("stem", "index", "image", "seed", "size")
LOOKERS = 8  # files looked at together: most of the time goes to waiting for ffmpeg and the disk


@dataclass(frozen=True)
class Item:
    """One video of a batch: its name in the output folder, its job, and where it was asked for."""

    index: int
    name: str
    job: RenderJob
    where: str


@dataclass(frozen=True)
class Bad:
    """A video that can't be made, while the others can."""

    name: str
    where: str
    message: str
    hint: str = ""
    exit_code: int = InputFileError.exit_code


@dataclass(frozen=True)
class Base:
    """What holds for every item that says nothing else: values and their sources, the output folder, the name's template."""

    values: Mapping[str, Any]
    sources: Mapping[str, str]
    output: Path
    name: str = NAME
    example: str = ""
    """Preset that hints name."""
    preset: str | None = None
    """Name of the preset that the values came from."""


def items_of(rows: Sequence[Row], base: Base, all_or_nothing: bool = True) -> tuple[list[Item], list[Bad], list[str]]:
    """Return the items, the ones that can't be made, and every mistake, in the order of the rows.

    ``all_or_nothing``: a file that can't be used is a mistake like any other (a manifest names it); else it is a bad item
    (it just lies in a folder).
    """
    check_name(base.name)
    mistakes: list[str] = []
    items: list[Item] = []
    for index, row in enumerate(rows, 1):
        item, wrong = _item(index, row, base)
        mistakes += wrong
        if item is not None:
            items.append(item)
    mistakes += collisions(items)
    needs = list(dict.fromkeys(need for item in items for need in _needs(item)))
    with ThreadPoolExecutor(LOOKERS) as pool:
        faults = dict(zip(needs, pool.map(_fault, needs), strict=True))
    sound, bad = [], []
    shared = [fault for (what, _), fault in faults.items() if fault is not None and what in ("weights", "separator")]
    if shared and not all_or_nothing:
        raise shared[0]  # the same for all of a folder
    for item in items:
        wrong_files = [(need[0], fault) for need in _needs(item) if (fault := faults[need]) is not None]
        here = [f"{what} ({item.where}): {fault.message}" for what, fault in wrong_files]
        if not wrong_files:
            sound.append(item)
        elif all_or_nothing or not all(isinstance(fault, InputFileError) for _, fault in wrong_files):
            mistakes += here
        else:
            fault = wrong_files[0][1]
            bad.append(Bad(item.name, item.where, "; ".join(each.message for _, each in wrong_files), fault.hint))
    return sound, bad, list(dict.fromkeys(mistakes))


def _item(index: int, row: Row, base: Base) -> tuple[Item | None, list[str]]:
    """Return the item of a row, or what is wrong with it."""
    values = {**base.values, **{name: value for name, value in row.values.items() if name not in ("audio", "output")}}
    values, places = as_students_ask(values, {**base.sources, **row.places})
    mistakes = list(row.mistakes)
    if not row.values and mistakes:
        return None, mistakes  # the line can't be read
    audio = row.values.get("audio")
    if not isinstance(audio, str) or not audio.strip():
        mistakes.append(f"audio ({row.where}): " + ("missing" if audio is None else f"got '{audio}', expected a file"))
    settings: AllSettings | None = None
    try:
        settings = make(AllSettings, values, places, mistakes, base.example)
    except UsageError as error:
        own = {row.where, *row.places.values()}
        # A rule over several settings may blame one that the item doesn't name.
        mistakes = [
            line if any(place in line for place in own) else f"{line} (in {row.where})"
            for line in error.message.split("\n")
        ]
    if settings is None:
        return None, mistakes
    if settings.image is None:
        mistakes.append(f"image ({row.where}): missing, and {NO_PICTURE}")
    if settings.device.startswith("cuda:"):
        place = places.get("device", row.where)
        mistakes.append(f"device ({place}): got {settings.device}, expected cuda: each worker has a GPU of its own")
    if mistakes or settings.image is None:
        return None, mistakes
    try:
        name = name_of(index, row.values.get("output"), Path(str(audio)), settings.image, settings, base.name)
    except ValueError as error:
        return None, [f"output ({row.where}): {error}"]
    job = RenderJob(
        image=as_spelled(settings.image),
        audio=as_spelled(Path(str(audio))),
        output=base.output / name,
        render=settings.part(RenderSettings),
        placement=settings.part(PlacementSettings),
        weights=settings.weights,
        variant=settings.variant,
        subtitles=tuple(
            (language, as_spelled(Path(file))) for language, file in map(parse_subtitles, settings.subtitles)
        ),
        preset=base.preset,
        lora=tuple((lora_file(as_spelled(Path(file))), scale) for file, scale in map(parse_lora, settings.lora)),
    )
    try:
        format_of(job.output, job.render.codec)
    except UsageError as error:
        return None, [f"codec ({places.get('codec', row.where)}): {error.message}"]
    return Item(index, name, job, row.where), []


# -- Names ----------------------------------------------------------------------------------------------------------


def check_name(template: str) -> None:
    """Raise ``UsageError`` for a template that can't name videos."""
    try:
        fields = [part[1] for part in Formatter().parse(template) if part[1] is not None]
        for name in fields:
            if name not in NAME_FIELDS:
                known = ", ".join(f"{{{each}}}" for each in NAME_FIELDS)
                raise ValueError(f"got {{{name}}}, expected {known}{did_you_mean(name, NAME_FIELDS)}")
        template.format(stem="talk", index=1, image="face", seed=0, size="512x512")
    except (ValueError, KeyError, IndexError) as error:
        raise UsageError(f"--name: '{template}': {error}", "for example: --name '{index:03d}-{stem}'") from error


def name_of(index: int, given: Any, audio: Path, image: Path, settings: AllSettings, template: str) -> str:
    """Return the name of an item's video in the output folder: as given, or by the template; raises ``ValueError``."""
    if given is None:
        size = "x".join(map(str, settings.size))
        name = template.format(stem=audio.stem, index=index, image=image.stem, seed=settings.seed, size=size)
        # The template says which kind of video, or the codec; a recording's own name doesn't.
        ending = PurePosixPath(template).suffix if template.lower().endswith(SUFFIXES) else home_of(settings.codec)
        folder, slash, last = name.removesuffix(ending).rpartition("/")
        name = folder + slash + fitted(last, after=ending)
    elif not isinstance(given, str) or not given.lower().endswith(SUFFIXES):
        raise ValueError(f"got '{given}', expected a name that ends in {one_of(SUFFIXES)}")
    else:
        name = given
    parts = PurePosixPath(name).parts
    if name.startswith("/") or not parts or any(part.startswith(".") or part.endswith(".render") for part in parts):
        raise ValueError(f"got '{name}', expected a name inside the output folder, without parts like .. or .hidden")
    if (longest := max(len(os.fsencode(part)) for part in parts)) > LONGEST_NAME:
        raise ValueError(f"got a name of {longest} bytes, expected at most {LONGEST_NAME}")
    return str(PurePosixPath(name))


def _inputs(job: RenderJob) -> list[Path]:
    return [job.audio, job.image, *(path for _, path in job.subtitles)]


def collisions(items: Sequence[Item]) -> list[str]:
    """Return what is wrong with the places of videos: two in one place, or one in the place of an input."""
    found = []
    inputs = {
        ownership.place_of(path) for item in items for path in (*_inputs(item.job), *(p for p, _ in item.job.lora))
    }
    inputs -= {None}
    makers: dict[str, Item] = {}
    for item in items:
        # Many file systems take no notice of case, some none of how an accent is written.
        other = makers.setdefault(composed(item.name).casefold(), item)
        if other is not item:
            alike = "" if item.name == other.name else ", but for case or how accents are written"
            found.append(f"output ({item.where}): {item.name} {SAME_NAME} {other.where} too{alike}")
        written = [item.job.output]
        if item.job.render.contact_sheet_every_s is not None:
            written.append(item.job.output.with_suffix(".jpg"))
        found += [
            f"output ({item.where}): {path} {OVERWRITES}" for path in written if ownership.place_of(path) in inputs
        ]
    return found


# -- Files ----------------------------------------------------------------------------------------------------------


def _needs(item: Item) -> list[tuple[str, Any]]:
    """Return what an item's making needs: each (what it is, the file or the words that find the weights)."""
    job = item.job
    weights = (job.weights, job.render.size, job.variant)
    files = [("audio", job.audio), ("image", job.image), *(("lora", path) for path, _ in job.lora)]
    files += [("subtitles", path) for _, path in job.subtitles]
    return [*files, ("weights", weights), *([("separator", job.weights)] if job.render.separate_vocals else [])]


def _fault(need: tuple[str, Any]) -> AvatarError | None:
    """Look at one file, or for weights; give what is wrong."""
    from avatarctl.audio.decode import probe
    from avatarctl.networks.images import read_image
    from avatarctl.render.subtitles import read_subtitles

    what, value = need
    try:
        if what == "weights":
            usable_weights(*value)
        elif what == "separator":
            usable_separator(value)
        elif what == "subtitles":
            read_subtitles(value)
        elif not _there(value):
            kinds = {"audio": "a recording", "image": "a picture", "lora": "a LoRA"}
            raise InputFileError(f"{value}: got no such file, expected {kinds[what]}", "check the path")
        elif what == "lora":
            check_lora(value)
        elif what == "audio":
            probe(value)
        elif what == "image":
            read_image(value)
    except AvatarError as error:
        return error
    return None


def _there(path: Path) -> bool:
    """Return whether a file is there; one whose name no folder can hold is not."""
    try:
        return path.exists()
    except OSError:
        return False
