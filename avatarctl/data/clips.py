"""Read a clip's pictures one by one, scaled and cropped to a size, and group them into windows; never a whole video."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import count
from math import ceil, log
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from avatarctl.audio.source import ffmpeg
from avatarctl.data.clip_colours import Colours, colours_of
from avatarctl.data.discover import PICTURES, Clip
from avatarctl.errors import InputFileError
from avatarctl.faces.cuts import Cut, CutFinder
from avatarctl.networks.images import read_image
from avatarctl.settings.values import parse_fps

Picture: TypeAlias = NDArray[np.uint8]
Pictures: TypeAlias = Generator[Picture, None, None]


@dataclass(frozen=True)
class Film:
    """Moving pictures: a video, or numbered picture files. ``width`` and ``height`` as shown, upright with square pixels."""

    path: Path
    width: int
    height: int
    fps: Fraction | None
    """Pictures per second; None where nothing tells."""
    files: tuple[Path, ...] = ()
    """The numbered pictures, in order; none for a video."""
    sound: bool = False
    streamed: bool = False
    """MPEG-TS and the like: ffmpeg counts time from the first of the tracks that are read."""
    colours: Colours = field(default_factory=Colours)


def film_of(path: Path) -> Film:
    """Look at a video or a folder of numbered pictures; raises ``InputFileError`` for what can't be read."""
    if path.is_dir():
        files = numbered(path)
        first = read_image(files[0])
        return Film(path, first.width, first.height, None, files)
    return _probe(path)


def clip_film(clip: Clip, fps: Fraction | None = None) -> Film:
    """Look at a clip's pictures, and whether it has sound; whether that can be decoded shows later.

    Numbered pictures have the rate of the video beside them, or the one that is asked for.
    """
    film = film_of(clip.pictures)
    timing = _probe(clip.timing) if clip.timing is not None else None
    if film.files:
        film = replace(film, fps=timing.fps if timing is not None else fps)
    if clip.sound not in (clip.pictures, clip.timing):
        film = replace(film, sound=clip.sound is not None)
    elif timing is not None:
        film = replace(film, sound=timing.sound)
    if film.fps is None:
        raise InputFileError(
            f"{film.path}: got pictures of unknown rate, expected sub_clip.mp4 beside them, or a video that tells its own",
            "name the rate with --fps",
        )
    return film


def nearest_size(film: Film, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return the size (width, height) that is nearest in aspect; of several, the one nearest in pixels."""

    def distance(size: tuple[int, int]) -> tuple[float, float]:
        aspect = abs(log(size[0] / size[1]) - log(film.width / film.height))
        return round(aspect, 6), abs(log(size[0] * size[1]) - log(film.width * film.height))

    return min(sizes, key=distance)


def numbered(folder: Path) -> tuple[Path, ...]:
    """Return a folder's pictures in the order of the last number in their names.

    Raises ``InputFileError`` when there are none, or a number is missing or stands there twice: sound and masks would
    go out of step from there on.
    """
    places: dict[int, Path] = {}
    files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in PICTURES and path.name[0] != "."]
    for path in files:
        digits = re.findall(r"\d+", path.stem)
        if not digits or int(digits[-1]) in places:
            what = "a picture without a number" if not digits else "a number that stands there twice"
            raise InputFileError(f"{path}: got {what}, expected names such as frame_0.png")
        places[int(digits[-1])] = path
    if not places:
        raise InputFileError(f"{folder}: got no picture, expected numbered ones such as frame_0.png")
    first, last = min(places), max(places)
    if last - first + 1 != len(places):
        gap = next(number for number in count(first) if number not in places)
        raise InputFileError(
            f"{folder}: got {len(places)} pictures from {first} to {last}, but number {gap} is missing"
        )
    return tuple(places[number] for number in sorted(places))


# -- Pictures one by one -----------------------------------------------------------------------------------------------


def stream(film: Film, size: tuple[int, int], fps: Fraction, like: Film | None = None) -> Pictures:
    """Return pictures (height, width, 3) at ``fps``, scaled to cover ``size`` (width, height) and cropped in the middle.

    ``like``: the film that these are masks of; masks of another size are put to its size first, and cropped as it is.
    Raises ``InputFileError`` for what can't be decoded.
    """
    if film.files:
        return _stream_files(film, size, fps, like)
    return _stream_video(film, size, fps, like)


def source_picture(number: int, fps: Fraction, own: Fraction) -> int:
    """Return the picture of a film at rate ``own`` that is shown as picture ``number`` at ``fps``: the last one begun.

    "Begun" is rounded to the nearest picture, as ffmpeg's filter does it.
    """
    return ceil((number + Fraction(1, 2)) * own / fps) - 1


def _stream_files(film: Film, size: tuple[int, int], fps: Fraction, like: Film | None) -> Pictures:
    own = (like.fps if like is not None else film.fps) or fps
    done, shown = -1, np.empty(0, np.uint8)
    for number in count():
        place = source_picture(number, fps, own)
        if place >= len(film.files):
            return
        if place != done:  # else it is shown again
            done, picture = place, read_image(film.files[place])
            if like is None and picture.size != (film.width, film.height):
                raise InputFileError(
                    f"{film.files[place]}: got {picture.width}x{picture.height}, expected {film.width}x{film.height} as "
                    "the pictures before"
                )
            if like is not None and picture.size != (like.width, like.height):
                picture = picture.resize((like.width, like.height), Image.Resampling.NEAREST)
            method = Image.Resampling.BICUBIC if like is None else Image.Resampling.BILINEAR
            shown = np.asarray(ImageOps.fit(picture, size, method))
        yield shown


def _stream_video(film: Film, size: tuple[int, int], fps: Fraction, like: Film | None) -> Pictures:
    width, height = size
    shape = like or film
    factor = max(Fraction(width, shape.width), Fraction(height, shape.height))
    covering = f"{max(width, round(shape.width * factor))}:{max(height, round(shape.height * factor))}"
    # start_time: a picture track that begins late is filled up in front, so that sound and pictures begin together.
    filters = [f"fps=fps={fps}:start_time=0"]
    colours = film.colours if like is None else Colours()  # of masks brightness alone counts
    filters += colours.before
    if like is not None and (film.width, film.height) != (like.width, like.height):
        filters.append(f"scale={like.width}:{like.height}:flags=neighbor")
    method = "bicubic" if like is None else "bilinear"
    scaled, crop = f"scale={covering}:flags={method}+accurate_rnd+full_chroma_int", f"crop={width}:{height}"
    filters += [scaled, *colours.after[:1], crop, *colours.after[1:]]
    # -xerror: a damaged picture ends it, rather than being made up of its neighbours.
    arguments = ["-xerror", "-i", f"file:{film.path}", "-map", "0:v:0", "-vf", ",".join(filters)]
    command = [ffmpeg(), "-v", "error", "-nostdin", *arguments, "-pix_fmt", "rgb24", "-f", "rawvideo", "pipe:1"]
    if film.streamed and film.sound:  # its first packet is read for the clock
        command += ["-map", "0:a:0", "-frames:a", "1", "-c:a", "copy", "-f", "null", "-"]
    count_bytes = 3 * width * height
    with tempfile.TemporaryFile() as log_file:
        # A session of its own: Ctrl-C in the terminal is ours to handle.
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log_file, start_new_session=True)
        with process:
            assert process.stdout is not None
            try:
                while len(data := process.stdout.read(count_bytes)) == count_bytes:
                    yield np.frombuffer(data, np.uint8).reshape(height, width, 3)
                status = process.wait()
            finally:
                process.kill()
        log_file.seek(0)
        text = log_file.read().decode("utf-8", "replace").strip()
    if status or text:
        reason = text.splitlines()[0] if text else f"status {status}"
        raise InputFileError(f"{film.path}: got a damaged or cut off video (ffmpeg: {reason}), expected a whole one")


def told_seconds(path: Path) -> float:
    """Return how long a file says that it is, in seconds; 0 where it says nothing."""
    found = re.search(r"^  Duration: (\d+):(\d+):(\d+\.\d+)", _listed(path), re.MULTILINE)
    return 0.0 if found is None else int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3])


def _listed(path: Path) -> str:
    """Return what ffmpeg says of a file."""
    command = [ffmpeg(), "-hide_banner", "-nostdin", "-i", f"file:{path}"]
    # It always fails, for want of an output: what it says of the input is asked for.
    found = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return found.stderr.decode("utf-8", "replace")


def _probe(path: Path) -> Film:
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise InputFileError(f"{path}: got {error.strerror or error}, expected a video") from error
    if empty:
        raise InputFileError(f"{path}: got an empty file, expected a video")
    text = _listed(path)
    tracks = [line for line in re.findall(r"^ +Stream #0:.*$", text, re.MULTILINE) if "(attached pic)" not in line]
    track = next((line for line in tracks if ": Video: " in line), "")
    shape = re.search(r", (\d+)x(\d+)(?: \[SAR (\d+):(\d+))?", track)
    if shape is None:
        lines = text.strip().splitlines()
        reason = "it has no pictures" if tracks else f"ffmpeg: {lines[-1].strip() if lines else 'no message'}"
        raise InputFileError(f"{path}: got a file that isn't a readable video ({reason}), expected pictures and sound")
    width, height = int(shape[1]), int(shape[2])
    if shape[3] and int(shape[3]) and int(shape[4]):
        width = max(round(Fraction(width * int(shape[3]), int(shape[4]))), 1)
    after = text[text.index(track) + len(track) :]
    turned = re.match(r"(?:\n {4,}.*)*?\n {4,}.*rotation of (-?[\d.]+)", after)
    if turned and round(float(turned[1])) % 180:
        width, height = height, width
    rate = re.search(r", ([\d.]+) fps", track)
    sound = any(": Audio: " in line for line in tracks)
    streamed = re.search(r"^Input #0, (mpegts|mpeg),", text, re.MULTILINE) is not None
    colours = colours_of(path, track, after, int(shape[1]), int(shape[2]))
    fps = _rate(rate[1]) if rate else None
    return Film(path, width, height, fps, sound=sound, streamed=streamed, colours=colours)


def _rate(text: str) -> Fraction | None:
    try:
        return parse_fps(text)
    except ValueError:
        return None


# -- Windows -----------------------------------------------------------------------------------------------------------


WHOLE = (0, sys.maxsize)  # a clip of one shot


@dataclass(frozen=True)
class Window:
    """Pictures ``start`` … of a clip, each with its masks, filled up to a whole window with copies of the last one.

    ``rows``: (picture, face mask or None, lip mask or None) each; ``frames``: how many of them are the clip's.
    """

    start: int
    frames: int
    rows: tuple[tuple[Picture | None, ...], ...]
    shot: int = 0
    """The number of the shot that it shows."""

    def pictures(self) -> NDArray[np.uint8]:
        """Return its pictures (T, H, W, 3)."""
        return np.stack([row[0] for row in self.rows if row[0] is not None])


def windows(
    rows: Iterable[tuple[Picture | None, ...]],
    length: int,
    stride: int,
    heard: int,
    short: Literal["pad", "skip"],
    shots: Sequence[tuple[int, int]] = (WHOLE,),
    to_end: bool = False,
    first: int = 0,
    step: int = 1,
) -> Iterator[Window]:
    """Cut rows into windows of ``length`` that begin every ``stride`` pictures; ``heard``: pictures that have sound.

    Each of ``shots`` (first picture, the one after the last) is cut on its own: no window shows two. What is left at the end
    of one doesn't make a window, or with ``to_end`` a last one ends with the shot, over pictures of the one before. A shot
    that is shorter makes one that is filled up (``pad``), or none. ``first``: where in a shot the first window begins, if it
    is long enough for that. ``step``: windows begin at every so many pictures of their shot, so the last one may end a few
    pictures before it.
    """
    held: deque[tuple[Picture | None, ...]] = deque(maxlen=length + step - 1)
    stride, first = max(stride // step, 1) * step, first // step * step
    left = deque(shots)
    begin, end = left.popleft()
    start, made, seen, shot = begin + first, begin, begin, 0

    def rest() -> Iterator[Window]:
        """Return the last window of a shot: pictures up to ``seen`` are its own, those up to ``made`` are in windows."""
        if len(held) >= length:
            over = (seen - begin - length) % step
            if made == begin or (to_end and made < seen - over):
                rows = tuple(held)[: len(held) - over]
                yield Window(seen - over - length, length, rows[-length:], shot)
        elif made == begin and held and short == "pad":
            yield Window(begin, len(held), (*held, *[held[-1]] * (length - len(held))), shot)

    for place, row in enumerate(rows):
        if place >= heard:
            break
        while place >= end:
            yield from rest()
            held.clear()
            if not left:
                return
            begin, end = left.popleft()
            start, made, seen, shot = begin + first, begin, begin, shot + 1
        if place < begin:
            continue
        held.append(row)
        seen = place + 1
        if seen == start + length:
            yield Window(start, length, tuple(held)[-length:], shot)
            start, made = start + stride, seen
    yield from rest()


def shots_of(film: Film, fps: Fraction) -> list[tuple[int, int]]:
    """Return the shots of a film at ``fps``: first picture, and the one after the last; dissolves and fades lie between them."""
    finder = CutFinder(fps)
    cuts: list[Cut] = []
    with closing(stream(film, (64, 64), fps)) as pictures:
        for picture in pictures:
            cuts += finder.push(picture)
    cuts += finder.end()
    begins, ends = [0, *(cut.last for cut in cuts)], [*(cut.first for cut in cuts), sys.maxsize]
    return list(zip(begins, ends, strict=True))


def in_step(pictures: Pictures, masks: Sequence[Pictures | None], slack: bool) -> Iterator[tuple[Picture | None, ...]]:
    """Return each picture with its masks; raises ``InputFileError`` when there are more or fewer masks than pictures.

    ``slack``: at a rate that isn't their own, videos may differ by one at their end.
    """
    last: list[Picture | None] = [None] * len(masks)
    late = [0] * len(masks)
    number = -1
    for number, picture in enumerate(pictures):
        for place, mask in enumerate(masks):
            if mask is None:
                continue
            found: Any = next(mask, None)
            late[place] += found is None
            if late[place] > slack:
                raise InputFileError(f"masks: got {number}, expected one for each picture, of which there are more")
            last[place] = last[place] if found is None else found
        yield (picture, *last)
    for mask in masks:
        if mask is not None:
            left = sum(1 for _, _ in zip(range(2), mask))
            if left > slack:
                raise InputFileError(f"masks: got more than {number + 1}, expected one for each picture")
