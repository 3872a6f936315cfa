"""Look at one file of footage once, in flat memory: its cuts, its faces picture by picture, its voice."""

from __future__ import annotations

import io
from array import array
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from avatarctl import jsontext
from avatarctl.audio.envelope import envelope
from avatarctl.audio.silero import Ear, speaks_by
from avatarctl.audio.track import SAMPLE_RATE_HZ, Through
from avatarctl.data.clips import Film, Picture, Pictures, stream
from avatarctl.data.prepare.quality import Bars, exposure, sharpness
from avatarctl.data.sound import decoded_sound
from avatarctl.faces.find import Face
from avatarctl.faces.regions import LOWER_LIP, UPPER_LIP
from avatarctl.faces.track import follow

FPS = Fraction(25)
VERSION = 1
# Columns of what is noted of each face in each picture, in pixels of the footage where they are lengths.
COLUMNS = (
    *("picture", "track", "shot", "x0", "y0", "x1", "y1", "head_x0", "head_y0", "head_x1", "head_y1"),
    *("opening", "presence", "bridged", "mixed", "sharpness", "light", "yaw"),
    *("lips_x0", "lips_y0", "lips_x1", "lips_y1"),
)
THUMB_S, THUMB_PX = 2, 192  # a small picture is kept so often, for the sheet


@dataclass(frozen=True)
class Voice:
    """The sound of a file picture by picture: ``level_T`` in dB, ``speech_T`` whether somebody speaks."""

    level_T: NDArray[np.float64]
    speech_T: NDArray[np.bool_]


@dataclass(frozen=True)
class Scan:
    """What was seen. ``rows``: see ``COLUMNS``; ``identity_rows`` (picture, track) belong to ``identities`` (N, 128).

    ``shots_T``: the shot of each picture, -1 amid a dissolve or fade. ``bars``: what is picture within black bars.
    ``size``: width and height of the footage. ``thumbs``: bytes of small JPEGs one after the other; ``thumb_rows`` (N, 2)
    has the number of the picture and the end of each.
    """

    rows: NDArray[np.float32]
    identity_rows: NDArray[np.int64]
    identities: NDArray[np.float32]
    shots_T: NDArray[np.int32]
    thumbs: NDArray[np.uint8]
    thumb_rows: NDArray[np.int64]
    bars: tuple[int, int, int, int]
    size: tuple[int, int]

    def thumb(self, picture: int) -> tuple[int, bytes]:
        """Return the small picture that is nearest to a picture, and its number."""
        place = int(np.abs(self.thumb_rows[:, 0] - picture).argmin())
        begin = int(self.thumb_rows[place - 1, 1]) if place else 0
        return int(self.thumb_rows[place, 0]), self.thumbs[begin : int(self.thumb_rows[place, 1])].tobytes()

    def column(self, name: str, which: NDArray[np.bool_] | slice = slice(None)) -> NDArray[np.float32]:
        """Return one column."""
        return self.rows[which, COLUMNS.index(name)]

    def to_bytes(self, recipe: dict[str, Any]) -> bytes:
        """Return the scan as a file."""
        buffer = io.BytesIO()
        about = np.frombuffer(jsontext.dumps(recipe, sort_keys=True).encode(), np.uint8)
        np.savez(
            buffer,
            about=about,
            bars=np.array(self.bars),
            size=np.array(self.size),
            **{name: getattr(self, name) for name in ARRAYS},
        )
        return buffer.getvalue()


ARRAYS = ("rows", "identity_rows", "identities", "shots_T", "thumbs", "thumb_rows")


def read_scan(path: Path, recipe: dict[str, Any] | None) -> Scan | None:
    """Return the scan in a file, or None when there is none, or one of another recipe (None: any)."""
    try:
        with np.load(path) as file:
            if recipe is not None and bytes(file["about"]) != jsontext.dumps(recipe, sort_keys=True).encode():
                return None
            x0, y0, x1, y1 = map(int, file["bars"])
            width, height = map(int, file["size"])
            return Scan(**{name: file[name] for name in ARRAYS}, bars=(x0, y0, x1, y1), size=(width, height))
    except (OSError, ValueError, KeyError, EOFError):
        return None


def scan_voice(path: Path, ear: Ear, through: Through | None) -> Voice:
    """Return the voice of a file, of as many pictures as its sound is long."""
    with decoded_sound(path, through) as heard:
        level_T = envelope(heard.waveform_T, int(heard.count * FPS / SAMPLE_RATE_HZ), FPS)
        return Voice(level_T, speaks_by(ear, heard.waveform_T, level_T, FPS))


def scan_pictures(film: Film, longest_px: int, device: str) -> Iterator[int | Scan]:
    """Look at every picture, at 25 a second; yield how many were looked at from time to time, and at last the scan."""
    factor = min(longest_px / max(film.width, film.height), 1.0)
    size = max(round(film.width * factor), 1), max(round(film.height * factor), 1)
    scale = np.array([film.width / size[0], film.height / size[1]] * 2)
    rows, identity_rows, shots = array("f"), array("q"), array("i")
    identities = array("f")
    bars, thumbs, thumb_rows = Bars(size), bytearray(), array("q")

    def watched(pictures: Pictures) -> Iterator[Picture]:
        for number, picture in enumerate(bars.watched(pictures, FPS)):
            if number % round(THUMB_S * FPS) == 0:
                thumbs.extend(_jpg(picture))
                thumb_rows.extend((number, len(thumbs)))
            yield picture

    def measure(picture: NDArray[np.uint8], face: Face) -> tuple[float, float]:
        return sharpness(picture, face.box), exposure(picture, face.box)

    with closing(stream(film, size, FPS)) as pictures:
        for look in follow(watched(pictures), FPS, device, measure):
            shots.append(-1 if look.mixed else look.shot)
            for seen in look.faces:
                face, (sharp, light) = seen.face, seen.measured or (np.nan, np.nan)
                where = (*face.box * scale, *face.head * scale)
                state = (face.opening, face.presence, seen.bridged, look.mixed, sharp, light, face.yaw_degrees)
                lips = face.points_N2[[*UPPER_LIP, *LOWER_LIP]]
                lips_box = np.concatenate([lips.min(axis=0), lips.max(axis=0)]) * scale
                rows.extend(map(float, (look.number, seen.track, look.shot, *where, *state, *lips_box)))
                if seen.identity is not None:
                    identity_rows.extend((look.number, seen.track))
                    identities.extend(seen.identity.tolist())
            if look.number % 25 == 0:
                yield look.number
    x0, y0, x1, y1 = (round(float(edge * by)) for edge, by in zip(bars.inside(), scale, strict=True))
    yield Scan(
        np.array(rows, np.float32).reshape(-1, len(COLUMNS)),
        np.array(identity_rows, np.int64).reshape(-1, 2),
        np.array(identities, np.float32).reshape(-1, 128),
        np.array(shots, np.int32),
        np.frombuffer(bytes(thumbs), np.uint8),
        np.array(thumb_rows, np.int64).reshape(-1, 2),
        (x0, y0, x1, y1),
        (film.width, film.height),
    )


def _jpg(picture: Picture) -> bytes:
    small = Image.fromarray(picture)
    small.thumbnail((THUMB_PX, THUMB_PX))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
