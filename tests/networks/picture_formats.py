"""Write one small picture in every format and form that people have, and see what reading makes of it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from heic import write_heic
from icc import ADOBE_RGB, D65, DISPLAY_P3, rgb_profile, srgb_of, to_xyz
from PIL import Image, PngImagePlugin

from avatarctl.errors import InputFileError
from avatarctl.networks.images import look_at

RED, BLUE = (200, 30, 40), (20, 60, 220)
Row = tuple[str, str, str]


def colours(size: tuple[int, int] = (64, 48)) -> Image.Image:
    """Left half red, right half blue."""
    picture = Image.new("RGB", size, RED)
    picture.paste(BLUE, (size[0] // 2, 0, *size))
    return picture


def greys() -> Image.Image:
    """Left half dark, right half light."""
    picture = Image.new("L", (64, 48), 60)
    picture.paste(200, (32, 0, 64, 48))
    return picture


def deep(factor: float, kind: str) -> np.ndarray:
    return (np.asarray(greys()).astype(np.float64) * factor).astype(kind)


def tiff(path: Path, values: np.ndarray, kind: int) -> None:
    """Write greys of any depth; kind: 1 unsigned, 2 signed, 3 floating point."""
    height, width = values.shape
    data = values.tobytes()
    tags = [
        (256, width),
        (257, height),
        (258, 8 * values.itemsize),
        (259, 1),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, height),
    ]
    tags += [(279, len(data)), (339, kind)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    path.write_bytes(
        b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + b"\0" * 4
    )


def save(mode: str = "RGB", **how: Any) -> Callable[[Path], None]:
    return lambda path: colours().convert(mode).save(path, **how)


def profiled(primaries: tuple, **how: Any) -> Callable[[Path], None]:
    return save(icc_profile=rgb_profile(primaries, 2.2), **how)


def shown(primaries: tuple) -> tuple[np.ndarray, np.ndarray]:
    """Return what the two colours look like that are stored under these primaries."""
    stored = np.array([RED, BLUE]).T / 255
    first, second = srgb_of(to_xyz(primaries, D65) @ stored**2.2).T
    return first, second


def turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    colours().save(path, exif=exif, quality=100, subsampling=0)


def clear(path: Path) -> None:
    picture = colours().convert("RGBA")
    picture.paste((0, 0, 0, 0), (32, 0, 64, 48))
    picture.save(path)


def without_end(path: Path) -> None:
    colours().save(path, quality=100, subsampling=0)
    path.write_bytes(path.read_bytes()[:-2])


def cut_off(path: Path) -> None:
    Image.effect_noise((256, 256), 90).save(path)
    path.write_bytes(path.read_bytes()[:9000])


def texts(path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", "x" * (80 << 20), zip=True)
    colours().save(path, pnginfo=info)


def moving(**how: Any) -> Callable[[Path], None]:
    return lambda path: colours().save(path, save_all=True, append_images=[Image.new("RGB", (64, 48))], **how)


def grey(**how: Any) -> Callable[[Path], None]:
    return lambda path: greys().save(path, **how)


PLAIN = (RED, BLUE)
GREY = ((60, 60, 60), (200, 200, 200))
BEST = {"quality": 100, "subsampling": 0}
# Format, what is tried, ending, how it is written, what is to be seen left and right, and how near of 255.
TRIED: tuple[tuple[str, str, str, Callable[[Path], None], tuple, int], ...] = (
    ("JPEG", "RGB", "jpg", save(**BEST), PLAIN, 3),
    ("JPEG", "progressive", "jpg", save(progressive=True, **BEST), PLAIN, 3),
    ("JPEG", "grey", "jpg", grey(quality=100), GREY, 1),
    ("JPEG", "CMYK without a profile", "jpg", save("CMYK", quality=100), PLAIN, 9),
    ("JPEG", "Display P3 (phones)", "jpg", profiled(DISPLAY_P3, **BEST), shown(DISPLAY_P3), 4),
    ("JPEG", "Adobe RGB (cameras)", "jpg", profiled(ADOBE_RGB, **BEST), shown(ADOBE_RGB), 4),
    ("JPEG", "turned by EXIF", "jpg", turned, (BLUE, RED), 3),
    ("JPEG", "without its last two bytes", "jpg", without_end, PLAIN, 3),
    ("JPEG", "cut off", "jpg", cut_off, PLAIN, 3),
    ("JPEG", "named .png", "png", save(format="JPEG", **BEST), PLAIN, 3),
    ("PNG", "RGB, 8 bits", "png", save(), PLAIN, 0),
    ("PNG", "palette", "png", lambda path: colours().quantize(8).save(path), PLAIN, 1),
    ("PNG", "transparent: white", "png", clear, (RED, (255, 255, 255)), 0),
    ("PNG", "grey, 16 bits", "png", lambda path: Image.fromarray(deep(257, "<u2")).save(path), GREY, 0),
    ("PNG", "Display P3", "png", profiled(DISPLAY_P3), shown(DISPLAY_P3), 2),
    ("PNG", "80 MB of text", "png", texts, PLAIN, 0),
    ("PNG", "animated: its first picture", "png", moving(), PLAIN, 0),
    ("WebP", "lossless", "webp", save(lossless=True), PLAIN, 0),
    ("WebP", "animated: its first picture", "webp", moving(lossless=True), PLAIN, 0),
    ("AVIF", "4:4:4", "avif", save(quality=100, subsampling="4:4:4"), PLAIN, 3),
    ("HEIC", "with the extra heic", "heic", lambda path: write_heic(path, np.asarray(colours())), PLAIN, 2),
    (
        "HEIC", "Display P3, named .jpg", "jpg",
        lambda path: write_heic(path, np.asarray(colours()), rgb_profile(DISPLAY_P3, 2.2)), shown(DISPLAY_P3), 3,
    ),
    ("HEIC", "turned", "heic", lambda path: write_heic(path, np.asarray(colours()), turns=2), (BLUE, RED), 2),
    ("TIFF", "RGB", "tif", save(), PLAIN, 0),
    ("TIFF", "LZW", "tif", save(compression="tiff_lzw"), PLAIN, 0),
    ("TIFF", "Adobe RGB", "tif", profiled(ADOBE_RGB), shown(ADOBE_RGB), 2),
    ("TIFF", "CMYK without a profile", "tif", save("CMYK"), PLAIN, 1),
    ("TIFF", "grey, 16 bits", "tif", lambda path: tiff(path, deep(257, "<u2"), 1), GREY, 1),
    ("TIFF", "grey, whole numbers of 32 bits, 0 … 255", "tif", lambda path: tiff(path, deep(1, "<u4"), 1), GREY, 0),
    ("TIFF", "grey, floating point, 0 … 1", "tif", lambda path: tiff(path, deep(1 / 255, "<f4"), 3), GREY, 1),
    ("TIFF", "grey, floating point with NaN", "tif", lambda path: tiff(path, deep(np.nan, "<f4"), 3), GREY, 1),
    ("JPEG 2000", "lossless", "jp2", save(), PLAIN, 0),
    ("GIF", "animated: its first picture", "gif", moving(), PLAIN, 2),
    ("BMP", "RGB", "bmp", save(), PLAIN, 0),
    ("TGA", "RGB", "tga", save(), PLAIN, 0),
    ("PPM", "RGB", "ppm", save(), PLAIN, 0),
    ("PCX", "RGB", "pcx", save(), PLAIN, 0),
    ("DDS", "RGB", "dds", save(), PLAIN, 0),
    ("ICO", "RGB", "ico", save(), PLAIN, 0),
    ("SVG", "any", "svg", lambda path: path.write_bytes(b"<svg xmlns='http://www.w3.org/2000/svg'/>") and None, PLAIN, 0),
    ("EPS", "any", "eps", lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n") and None, PLAIN, 0),
    ("PDF", "any", "pdf", lambda path: path.write_bytes(b"%PDF-1.7\n") and None, PLAIN, 0),
    ("JPEG XL", "any", "jxl", lambda path: path.write_bytes(b"\xff\x0a\0\0") and None, PLAIN, 0),
    ("DNG and other raw pictures", "any", "dng", save(format="TIFF", tiffinfo={50706: b"\1\4\0\0"}), PLAIN, 0),
)  # fmt: skip


def picture_rows(folder: Path) -> list[Row]:
    """Return what comes of each."""
    pytest.importorskip("pi_heif")
    rows = []
    for number, (kind, what, ending, write, expected, near) in enumerate(TRIED):
        path = folder / f"{number}.{ending}"
        write(path)
        try:
            image, notes = look_at(path)
        except InputFileError as error:
            said = error.message.removeprefix(f"{path}: ").partition(", expected")[0]
            rows.append((kind, what, f"refused: {said.partition(' (')[0]}; hint: {error.hint}"))
            continue
        pixels = np.asarray(image).astype(float)
        middle, width = pixels.shape[0] // 2, pixels.shape[1]
        found = pixels[middle, [width // 4, 3 * width // 4]]
        far = np.abs(found - np.array(expected)).max()
        exact = "exact" if not near else f"right within {near} of 255"
        note = f"; note: {notes[0].removeprefix(f'{path}: ')}" if notes else ""
        rows.append((kind, what, (exact if far <= near else f"WRONG by {far:.0f}") + note))
    return rows
