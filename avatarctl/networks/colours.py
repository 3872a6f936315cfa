"""Convert a decoded picture to what people see: 8 bits per channel, sRGB, transparency on white."""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, PngImagePlugin

from avatarctl.errors import InputFileError

DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
# What whole numbers of 32 bits are taken to count to: the first of these that holds the largest value.
RANGES = (255, 65_535, 16_777_215, 2**31 - 1, 2**32 - 1)
BITS, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF
UNSIGNED, SIGNED = 1, 2
WHITE_IS_ZERO = 0
SAVE_AS = "save it as PNG with 8 or 16 bits per channel"


class Seen(NamedTuple):
    """An RGB picture, and what was decided about it that the user should know."""

    image: Image.Image
    notes: tuple[str, ...]


class Stored(NamedTuple):
    """What the file says of its pixels; Pillow forgets it when they are converted."""

    name: str
    png_bits: int
    tiff: dict[int, Any]
    profile: bytes | None


def stored(picture: Image.Image, name: str) -> Stored:
    """Return what an opened file says of its pixels, before they are decoded."""
    profile = picture.info.get("icc_profile") or None
    known = getattr(picture, "tag_v2", {})  # TIFF alone has it
    tags = {tag: known[tag] for tag in (BITS, PHOTOMETRIC, SAMPLE_FORMAT) if tag in known}
    bits = 8
    if isinstance(picture, PngImagePlugin.PngImageFile) and picture.tile:
        # The decoder's own name for the pixels: "L;4", "RGB;16B", "I;16B".
        digits = "".join(c for c in str(picture.tile[0].args).partition(";")[2] if c.isdigit())
        bits = int(digits or 8)
    return Stored(name, bits, tags, profile)


def to_srgb(picture: Image.Image, about: Stored) -> Seen:
    """Return a decoded picture in 8-bit sRGB on white; raises ``InputFileError`` where its range can't be told."""
    notes: list[str] = []
    alpha = _alpha(picture, about)
    if picture.mode in DEEP:
        picture = _scaled(picture, about, notes)
    elif picture.mode not in ("RGB", "L", "CMYK", "LAB"):
        # Palettes, bits, YCbCr and pictures with alpha; those with alpha can't all lose it in one step.
        whole = picture.convert({"La": "LA"}.get(picture.mode, "RGBA")) if alpha is not None else picture
        picture = whole.convert("L" if picture.mode in ("1", "LA", "La") else "RGB")
    picture = _through_profile(picture, about, notes)
    if alpha is not None:
        picture.putalpha(alpha)
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return Seen(picture, tuple(notes))


# -- Transparency ------------------------------------------------------------------------------------------------------


def _alpha(picture: Image.Image, about: Stored) -> Image.Image | None:
    """Return how much each pixel covers, as a picture of mode L; None where all of it does."""
    if not picture.has_transparency_data:
        return None
    clear = picture.info.get("transparency")
    if picture.mode.startswith("I") or (picture.mode in ("1", "L", "RGB") and clear is not None):
        # One colour is transparent, written with the bits of the file: Pillow compares it with 8 bits.
        wanted = np.asarray(clear, np.int64)
        if picture.mode == "RGB" and about.png_bits == 16:
            wanted = wanted >> 8
        elif picture.mode == "L" and about.png_bits < 8:
            wanted = wanted * 255 // (2**about.png_bits - 1)
        same = np.asarray(picture).astype(np.int64) == (wanted if picture.mode != "1" else bool(clear))
        same = same.all(axis=-1) if same.ndim == 3 else same
        return Image.fromarray(np.where(same, 0, 255).astype(np.uint8))
    return picture.convert("RGBA").getchannel("A")


# -- Depth -------------------------------------------------------------------------------------------------------------


def _scaled(picture: Image.Image, about: Stored, notes: list[str]) -> Image.Image:
    """Return greys of more than 8 bits as 8 bits."""
    values = np.asarray(picture)
    white, words = _range_of(picture, values, about)
    if words:
        notes.append(f"{about.name}: {words}")
    unsigned = values.view(np.uint32) if _is_unsigned(picture, about) else values
    scaled = unsigned.astype(np.float64) * (255 / white) if white > 1e6 else unsigned.astype(np.float32) * (255 / white)
    whole = scaled.clip(0, 255).round().astype(np.uint8)
    if about.tiff.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        whole = 255 - whole
    return Image.fromarray(whole)


def _is_unsigned(picture: Image.Image, about: Stored) -> bool:
    """Return whether whole numbers of 32 bits are unsigned: Pillow reads all as signed."""
    return picture.mode == "I" and bool(about.tiff) and _first(about.tiff.get(SAMPLE_FORMAT), UNSIGNED) == UNSIGNED


def _range_of(picture: Image.Image, values: NDArray[Any], about: Stored) -> tuple[float, str]:
    """Return the value that is white, and words for the user where the file itself doesn't tell it."""
    if picture.mode.startswith("I;16"):
        bits = _first(about.tiff.get(BITS), 16)
        return float(2**bits - 1), ""
    if picture.mode == "F":
        return _range_of_floats(values, about.name)
    bits = _first(about.tiff.get(BITS), 16)  # PPM and the like are brought to 16 bits by Pillow
    if not _is_unsigned(picture, about) and values.min() < 0:
        raise InputFileError(
            f"{about.name}: got negative pixels (down to {values.min()}), expected 0 for black", SAVE_AS
        )
    if bits <= 16:
        return (32_767.0 if _first(about.tiff.get(SAMPLE_FORMAT), UNSIGNED) == SIGNED else 65_535.0), ""
    largest = int((values.view(np.uint32) if _is_unsigned(picture, about) else values).max())
    white = next(most for most in RANGES if largest <= most)
    return float(white), f"whole numbers of 32 bits up to {largest}, taken as 0 … {white}"


def _range_of_floats(values: NDArray[Any], name: str) -> tuple[float, str]:
    if not np.isfinite(values).all():
        raise InputFileError(f"{name}: got pixels that are not finite numbers, expected 0 … 1", SAVE_AS)
    low, high = float(values.min()), float(values.max())
    # Sharpening and resizing overshoot a little; highlights of high dynamic range are clipped.
    usual = float(np.quantile(values, 0.99)) if high > 1 else high
    white = next((most for most in (1.0, 255.0, 65_535.0) if usual <= most * 1.001), None)
    if white is None or low < -0.1 * white:
        raise InputFileError(f"{name}: got floating point pixels of {low:g} … {high:g}, expected 0 … 1", SAVE_AS)
    return white, f"floating point pixels of {low:g} … {high:g}, taken as 0 … {white:g}"


def _first(value: Any, otherwise: int) -> int:
    found = value[0] if isinstance(value, tuple) and value else value
    return int(found) if isinstance(found, int) else otherwise


# -- Colour ------------------------------------------------------------------------------------------------------------


def _through_profile(picture: Image.Image, about: Stored, notes: list[str]) -> Image.Image:
    """Return a picture of mode L, RGB, CMYK or LAB in sRGB, by its profile if it has one that is usable."""
    if about.profile is not None and picture.mode != "LAB":  # LAB means the same everywhere
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(about.profile))
            space = profile.profile.xcolor_space.strip()
            if space == "RGB" and picture.mode == "L":
                picture = picture.convert("RGB")
            if space != {"L": "GRAY"}.get(picture.mode, picture.mode):
                raise ValueError(f"it is one for {space}, the pixels are {picture.mode}")
            done = ImageCms.profileToProfile(picture, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
            assert done is not None
            return done
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
            notes.append(f"{about.name}: its colour profile can't be used ({error}), the colours are taken as sRGB")
    return picture.convert("RGB")
