"""Read a picture file upright, in sRGB and on white, and crop or pad it to the size of the video."""

from __future__ import annotations

import io
import shlex
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from avatarctl.errors import InputFileError
from avatarctl.networks.colours import Seen, stored, to_srgb
from avatarctl.networks.jpeg_end import with_end
from avatarctl.networks.picture_kinds import FORMATS, beyond_us, is_heif, register_heif

if TYPE_CHECKING:
    from torch import Tensor

PAD_COLOUR = (128, 128, 128)  # mid-grey: the value that the network knows as "nothing here"
# Pictures of more pixels than LARGE are reduced as they are read, by a whole number; a side never below SHORTEST by that.
LARGE, SHORTEST = 1 << 25, 1536
BEYOND_PILLOW = 3  # times the pixels that Pillow warns of: 268 million, more than any phone's camera has
# Text and profiles of a PNG: Pillow's own limit of 1 MB refuses workflows and scanners' profiles.
PngImagePlugin.MAX_TEXT_CHUNK = max(PngImagePlugin.MAX_TEXT_CHUNK, 64 << 20)
PngImagePlugin.MAX_TEXT_MEMORY = max(PngImagePlugin.MAX_TEXT_MEMORY, 256 << 20)
CUT_NOTED, SMALL_NOTED = 0.2, 0.5
_opening = threading.Lock()


class ReferenceImage(NamedTuple):
    """``pixels_CHW`` (3, height, width), float32 in [-1, 1], and what the user should be told about them."""

    pixels_CHW: Tensor
    warnings: tuple[str, ...]


Fit = Literal["face", "cover", "pad"]
Box = tuple[int, int, int, int]  # left, top, right, bottom in whole pixels of the picture as it is read


def load_image(path: Path, width: int, height: int, fit: Fit = "cover", crop: Box | None = None) -> ReferenceImage:
    """Read a picture at ``width`` x ``height``.

    EXIF orientation and colour profile are honoured, transparency is put on white. What was decided about colours is warned
    of, and what :func:`framing` says; :func:`framed` says what ``fit`` and ``crop`` are.
    Raises ``InputFileError`` for what isn't a whole, readable picture.
    """
    picture, notes = look_at(path)
    notes = (*notes, *framing(path, picture.size, (width, height), fit))
    return ReferenceImage(pixels_of(framed(picture, (width, height), fit, crop)), notes)


def framed(picture: Image.Image, size: tuple[int, int], fit: Fit, crop: Box | None) -> Image.Image:
    """Return a picture at the size (width, height) of the video, resized by Pillow's bicubic.

    ``face`` takes the part ``crop``, which was placed around a face; ``cover`` crops the middle to the aspect of the video,
    ``pad`` keeps all of the picture between mid-grey bars.
    """
    if fit == "pad":
        return ImageOps.pad(picture, size, Image.Resampling.BICUBIC, color=PAD_COLOUR)
    if fit == "cover":
        return ImageOps.fit(picture, size, Image.Resampling.BICUBIC)
    assert crop is not None, "it was placed when the render began"
    return picture.resize(size, Image.Resampling.BICUBIC, box=crop)


def framing(path: Path, size: tuple[int, int], video: tuple[int, int], fit: str) -> tuple[str, ...]:
    """Say what a picture of ``size`` (width, height) loses in a video: much that is cut off, or sharpness.

    With ``face`` nothing: what is to be said then depends on the face (``avatarctl.faces.framing``).
    """
    if fit == "face":
        return ()
    (width, height), (video_width, video_height) = size, video
    notes = []
    if fit == "cover":
        factor = max(video_width / width, video_height / height)
        across, down = 1 - video_width / (width * factor), 1 - video_height / (height * factor)
        if (cut := max(across, down)) > CUT_NOTED:
            first, second = ("left", "right") if across > down else ("top", "bottom")
            notes.append(
                f"{path}: {cut:.0%} of the picture is cut off ({cut / 2:.0%} at the {first}, {cut / 2:.0%} at the {second}): "
                f"it is {width}x{height}, the video {video_width}x{video_height}; --fit pad keeps all of it"
            )
    if width < SMALL_NOTED * video_width or height < SMALL_NOTED * video_height:
        notes.append(
            f"{path}: got a picture of {width}x{height}, under half of {video_width}x{video_height}: the video will look soft"
        )
    return tuple(notes)


def pixels_of(picture: Image.Image) -> Tensor:
    """Return an RGB picture as (3, H, W), float32 in [-1, 1]."""
    import torch  # a picture is checked before anything heavy is loaded

    array = np.asarray(picture.convert("RGB"), dtype=np.float32)
    return torch.from_numpy(array).permute(2, 0, 1).contiguous() / 255 * 2 - 1


def read_image(path: Path) -> Image.Image:
    """Read a picture upright, in sRGB, transparency on white; raises ``InputFileError`` naming what is wrong with it."""
    return look_at(path).image


def look_at(path: Path) -> Seen:
    """Read a picture as :func:`read_image` does, with what was decided about its colours.

    A picture of more than 33 million pixels is reduced as it is read, to a whole fraction of its size; one of more than 268
    million is refused.
    """
    with _named(path):
        mode = path.stat().st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            raise InputFileError(
                f"{path}: got a pipe or a device, expected a file", "save the picture to a file first, and name that"
            )
        if stat.S_ISREG(mode) and path.stat().st_size == 0:
            raise InputFileError(f"{path}: got an empty file, expected a picture", "copy it again")
        with path.open("rb") as file:
            return _read(path, file)


def _read(path: Path, file: IO[bytes]) -> Seen:
    start = file.read(4096)
    file.seek(0)
    if is_heif(start):
        register_heif(path)
    try:
        return _decode(path, file)
    except UnidentifiedImageError as error:
        what, hint = beyond_us(start)
        raise InputFileError(f"{path}: got {what}, expected PNG, JPEG, WebP or the like", hint) from error
    except (OSError, ValueError) as error:
        if start.startswith(b"\xff\xd8") and "truncated" in str(error):
            whole = with_end(path.read_bytes())
            if whole is not None:
                return _decode(path, io.BytesIO(whole))
        if start.startswith(b"\x89PNG") and "text" in str(error).lower():
            return _decode(path, io.BytesIO(_without_text(path.read_bytes())))
        raise


def _decode(path: Path, file: IO[bytes]) -> Seen:
    with _open(file) as opened:
        most = BEYOND_PILLOW * (Image.MAX_IMAGE_PIXELS or 1 << 26)
        if opened.width * opened.height > most:
            raise InputFileError(
                f"{path}: got {opened.width}x{opened.height}, more than {most} pixels, expected a portrait",
                "make it smaller first",
            )
        if (raw := beyond_us(b"", opened)[0]) and opened.format == "TIFF":
            raise InputFileError(f"{path}: got {raw}, expected a finished picture", beyond_us(b"", opened)[1])
        factor = _factor(opened.size)
        if factor > 1:
            opened.draft(None, (opened.width // factor, opened.height // factor))
        about = stored(opened, str(path))
        opened.load()
        picture = _reduced(opened, _factor(opened.size))
        return to_srgb(ImageOps.exif_transpose(picture), about)


def _open(file: IO[bytes]) -> Image.Image:
    """Open a picture without Pillow's own limit of pixels, which is a global of it: ours is checked by the caller."""
    with _opening:
        most, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file, formats=[*FORMATS, *(["HEIF"] if "HEIF" in Image.OPEN else [])])
        finally:
            Image.MAX_IMAGE_PIXELS = most


def _factor(size: tuple[int, int]) -> int:
    """Return by which power of two a picture of this size is reduced."""
    factor = 1
    while size[0] * size[1] > LARGE * factor**2 and min(size) >= 2 * factor * SHORTEST:
        factor *= 2
    return factor


def _reduced(picture: Image.Image, factor: int) -> Image.Image:
    if factor == 1:
        return picture
    if picture.mode in ("P", "PA"):
        picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    size = (-(-picture.width // factor), -(-picture.height // factor))
    if "transparency" in picture.info or picture.mode == "1":
        return picture.resize(
            size, Image.Resampling.NEAREST
        )  # the one colour that is transparent has to stay that colour
    if picture.mode.startswith("I;16"):
        return picture.resize(size, Image.Resampling.BOX)
    return picture.reduce(factor)


def _without_text(png: bytes) -> bytes:
    """Return a PNG file without its text, of which there can be more than Pillow reads."""
    kept, place = [png[:8]], 8
    while place + 8 <= len(png):
        length, name = int.from_bytes(png[place : place + 4]), png[place + 4 : place + 8]
        if name not in (b"tEXt", b"zTXt", b"iTXt"):
            kept.append(png[place : place + 12 + length])
        place += 12 + length
    return b"".join(kept)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Raise what the system and Pillow's readers raise as errors that name the file and what to do."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of oddities that don't hinder it (broken EXIF, many pixels: those are counted here).
            warnings.simplefilter("ignore")
            yield
    except FileNotFoundError as error:
        raise InputFileError(f"{path}: got no such file, expected a picture", "check the path") from error
    except IsADirectoryError as error:
        raise InputFileError(f"{path}: got a folder, expected a picture", "give the path of one file") from error
    except PermissionError as error:
        hint = f"chmod u+r {shlex.quote(str(path))}, or run as its owner"
        raise InputFileError(f"{path}: got a file that may not be read, expected a picture", hint) from error
    except MemoryError as error:
        raise InputFileError(f"{path}: got a picture that doesn't fit into memory", "make it smaller first") from error
    except (OSError, SyntaxError, ValueError, RuntimeError, EOFError, LookupError) as error:
        # What Pillow's readers raise, AVIF's and HEIF's RuntimeError.
        raise InputFileError(
            f"{path}: got a damaged or cut off picture ({error}), expected a whole one", "save or copy it again"
        ) from error
