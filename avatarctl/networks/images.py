"""Read a picture file at the size of the video: upright, on white, cropped or padded."""

from __future__ import annotations

import shlex
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from avatarctl.errors import InputFileError

if TYPE_CHECKING:
    from torch import Tensor

PAD_COLOUR = (128, 128, 128)  # mid-grey: the value that the network knows as "nothing here"


class ReferenceImage(NamedTuple):
    """``pixels_CHW`` (3, height, width), float32 in [-1, 1], and what the user should be told about them."""

    pixels_CHW: Tensor
    warnings: tuple[str, ...]


def load_image(path: Path, width: int, height: int, fit: Literal["cover", "pad"] = "cover") -> ReferenceImage:
    """Read a picture at ``width`` x ``height``.

    EXIF orientation is honoured, transparency put on white. ``cover`` crops the middle to the aspect of the video, ``pad``
    keeps all of it between mid-grey bars. A picture with a side under half the video's has a warning. Resized by Pillow's
    bicubic.
    Raises ``InputFileError`` for what isn't a whole, readable picture.
    """
    picture = read_image(path)
    notes: list[str] = []
    if picture.width * 2 < width or picture.height * 2 < height:
        size = f"{picture.width}x{picture.height}"
        notes.append(f"{path}: got a picture of {size}, under half of {width}x{height}: the video will look soft")
    if fit == "pad":
        picture = ImageOps.pad(picture, (width, height), Image.Resampling.BICUBIC, color=PAD_COLOUR)
    else:
        picture = ImageOps.fit(picture, (width, height), Image.Resampling.BICUBIC)
    return ReferenceImage(pixels_of(picture), tuple(notes))


def pixels_of(picture: Image.Image) -> Tensor:
    """Return an RGB picture as (3, H, W), float32 in [-1, 1]."""
    import torch  # a picture is checked before anything heavy is loaded

    array = np.asarray(picture.convert("RGB"), dtype=np.float32)
    return torch.from_numpy(array).permute(2, 0, 1).contiguous() / 255 * 2 - 1


def read_image(path: Path) -> Image.Image:
    """Read a picture upright, in RGB, transparency on white; raises ``InputFileError`` naming what is wrong with it."""
    try:
        if path.is_file() and path.stat().st_size == 0:
            raise InputFileError(f"{path}: got an empty file, expected a picture", "copy it again")
        with warnings.catch_warnings():
            # A picture of a hundred million pixels is more likely an attack or an accident than a portrait.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                opened.load()
                picture = ImageOps.exif_transpose(opened)
    except FileNotFoundError as error:
        raise InputFileError(f"{path}: got no such file, expected a picture", "check the path") from error
    except IsADirectoryError as error:
        raise InputFileError(f"{path}: got a folder, expected a picture", "give the path of one file") from error
    except PermissionError as error:
        hint = f"chmod u+r {shlex.quote(str(path))}, or run as its owner"
        raise InputFileError(f"{path}: got a file that may not be read, expected a picture", hint) from error
    except UnidentifiedImageError as error:
        raise InputFileError(
            f"{path}: got a file that is not a picture, expected PNG, JPEG, WebP or the like", "choose a picture"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputFileError(
            f"{path}: got more than {Image.MAX_IMAGE_PIXELS} pixels, expected a portrait", "make it smaller first"
        ) from error
    except (OSError, SyntaxError, ValueError, RuntimeError) as error:  # what Pillow's readers raise, AVIF's the last
        raise InputFileError(
            f"{path}: got a damaged or cut off picture ({error}), expected a whole one", "save or copy it again"
        ) from error
    if picture.mode == "F":
        # Nothing says which value is white; Pillow would clip to 0 … 255 and turn most such pictures black.
        raise InputFileError(
            f"{path}: got floating point pixels, expected 8 or 16 bits per channel", "save it as PNG first"
        )
    if picture.has_transparency_data:
        whole = picture.convert("RGBA")
        white = Image.new("RGBA", whole.size, "white")
        picture = Image.alpha_composite(white, whole)
    if picture.mode.startswith("I;16") or picture.mode == "I":
        # Pillow clips 16-bit greys to 8 bits; scale them instead.
        picture = Image.fromarray((np.asarray(picture, dtype=np.float32) / 257).clip(0, 255).astype(np.uint8))
    return picture.convert("RGB")
