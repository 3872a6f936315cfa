"""Show that pictures look as people see them: by their colour profiles, at any depth, with transparency on white."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from icc import (
    ADOBE_RGB,
    D50,
    D65,
    DISPLAY_P3,
    PROPHOTO,
    SRGB,
    grey_profile,
    inks_profile,
    rgb_profile,
    srgb_of,
    to_xyz,
)
from PIL import Image, ImageCms, TiffImagePlugin

from avatarctl.errors import InputFileError
from avatarctl.networks.images import look_at, read_image

PATCHES = [(200, 30, 40), (30, 200, 60), (60, 40, 210), (224, 172, 148), (128, 128, 128), (0, 0, 0), (255, 255, 255)]


def patches(colours: object = PATCHES, mode: str = "RGB") -> Image.Image:
    """Return a row of squares of 16 pixels, one for each colour."""
    rows = np.asarray(colours, np.uint8)
    return Image.fromarray(np.repeat(np.repeat(rows[None], 16, 0), 16, 1), mode if rows.ndim == 2 else None)


def seen(path: Path) -> np.ndarray:
    """Return the colour in the middle of each square."""
    return np.asarray(read_image(path)).astype(float)[8, 8::16]


# -- Profiles ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["png", "tiff", "webp", "avif", "jpg"])
@pytest.mark.parametrize(
    ("primaries", "gamma", "white"),
    [(DISPLAY_P3, 2.2, D65), (ADOBE_RGB, 2.2, D65), (PROPHOTO, 1.8, D50), (SRGB, 1.0, D65)],
    ids=["Display P3", "Adobe RGB", "ProPhoto", "linear"],
)
def test_profiles_are_converted(tmp_path: Path, ending: str, primaries: tuple, gamma: float, white: np.ndarray) -> None:
    path = tmp_path / f"p.{ending}"
    how = {"webp": {"lossless": True}, "avif": {"quality": 100}, "jpg": {"quality": 100, "subsampling": 0}}
    patches().save(path, icc_profile=rgb_profile(primaries, gamma, white), **how.get(ending, {}))
    stored = np.asarray(Image.open(path).convert("RGB")).astype(float)[8, 8::16]
    expected = srgb_of(to_xyz(primaries, white) @ (stored.T / 255) ** gamma).T
    assert np.abs(seen(path) - expected).max() <= 2
    assert np.abs(seen(path) - stored).max() > 5 and not look_at(path).notes


def test_channels_that_mean_other_colours(tmp_path: Path) -> None:
    patches([(200, 30, 40)]).save(tmp_path / "p.png", icc_profile=rgb_profile(SRGB, 2.2, order="gbr"))
    # First is green, second blue, third red.
    expected = srgb_of(to_xyz(SRGB, D65) @ (np.array([[40], [200], [30]]) / 255) ** 2.2)[:, 0]
    assert np.abs(seen(tmp_path / "p.png") - expected).max() <= 2 and expected[1] > 195


def test_srgb_stays_as_it_is(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    noise.save(tmp_path / "p.png", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    assert np.abs(np.asarray(read_image(tmp_path / "p.png")).astype(int) - np.asarray(noise)).max() <= 1


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_grey_profiles(tmp_path: Path, mode: str) -> None:
    Image.new("L", (16, 16), 100).convert(mode).save(tmp_path / "p.png", icc_profile=grey_profile(1.0))
    light = srgb_of(D50[:, None] * 100 / 255)[:, 0]
    assert np.abs(seen(tmp_path / "p.png")[0] - light).max() <= 2 and light[0] > 160


def test_deep_greys_with_a_profile(tmp_path: Path) -> None:
    grey = Image.fromarray(np.full((16, 16), 100 * 257, np.uint16))
    grey.save(tmp_path / "p.tiff", icc_profile=grey_profile(1.0))
    assert np.abs(seen(tmp_path / "p.tiff")[0] - srgb_of(D50[:, None] * 100 / 255)[:, 0]).max() <= 2


@pytest.mark.parametrize("ending", ["jpg", "tiff"])
def test_inks_by_their_profile(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"p.{ending}"
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[..., 0] = 255
    Image.fromarray(inks, "CMYK").save(
        path, icc_profile=inks_profile(), **({"quality": 100} if ending == "jpg" else {})
    )
    # L 50.2, a -50, b 50: f_y = 0.570, f_x = 0.470, f_z = 0.320 of Lab's formulas.
    y = (128 / 255 * 100 + 16) / 116
    expected = srgb_of((D50 * np.array([y - 50 / 500, y, y - 50 / 200]) ** 3)[:, None])[:, 0]
    assert np.abs(seen(path)[0] - expected).max() <= 3
    assert np.abs(expected - (0, 255, 255)).max() > 100  # what the inks' names would say


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_profile_and_transparency(tmp_path: Path, mode: str) -> None:
    """The colour that shows through is white, not what the profile makes of it."""
    picture = patches([(200, 30, 40), (10, 20, 30)]).convert("RGBA")
    picture.paste((10, 20, 30, 0), (16, 0, 32, 16))
    picture.convert(mode).save(tmp_path / "p.png", icc_profile=rgb_profile(ADOBE_RGB, 2.2))
    left, right = seen(tmp_path / "p.png")
    assert (
        np.abs(left - srgb_of(to_xyz(ADOBE_RGB, D65) @ (np.array([[200], [30], [40]]) / 255) ** 2.2)[:, 0]).max() <= 2
    )
    assert right.tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        (b"not a profile", "can't be used"),
        (rgb_profile(DISPLAY_P3, 2.2)[:200], "can't be used"),
        (grey_profile(2.2), "one for GRAY, the pixels are RGB"),
        (inks_profile(), "one for CMYK, the pixels are RGB"),
    ],
)
def test_unusable_profiles_are_told_and_passed_over(tmp_path: Path, profile: bytes, words: str) -> None:
    patches().save(tmp_path / "p.png", icc_profile=profile)
    assert np.abs(seen(tmp_path / "p.png") - PATCHES).max() == 0
    (note,) = look_at(tmp_path / "p.png").notes
    assert words in note and note.startswith(str(tmp_path / "p.png"))


# -- Depth -------------------------------------------------------------------------------------------------------------


def ramp(scale: float, kind: str) -> np.ndarray:
    """Return a grey ramp of 0 … 255, ``scale`` times, 16 rows of it."""
    return np.repeat((np.arange(256) * scale)[None], 16, 0).astype(kind)


def write_tiff(path: Path, values: np.ndarray, **tags: int) -> None:
    """Write a grey TIFF of any depth; tags: bits, format (1 unsigned, 2 signed, 3 float), meaning (0: 0 is white)."""
    height, width = values.shape
    data = values.tobytes()
    entries = [
        (256, width), (257, height), (258, tags.get("bits", values.itemsize * 8)), (259, 1), (262, tags.get("meaning", 1)),
        (273, 8), (277, 1), (278, height), (279, len(data)), (339, tags.get("format", 1)),
    ]  # fmt: skip
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", tag, 4, 1, v) for tag, v in entries)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory + b"\0" * 4)


@pytest.mark.parametrize(
    ("values", "tags", "note"),
    [
        (ramp(257, "<u2"), {}, ""),
        (ramp(257, "<u2")[:, ::-1].copy(), {"meaning": 0}, ""),
        (ramp(128.498, "<i2"), {"format": 2}, ""),
        (ramp(1, "<u4"), {}, "up to 255, taken as 0 … 255"),
        (ramp(257, "<i4"), {"format": 2}, "up to 65535, taken as 0 … 65535"),
        (ramp(65793, "<u4"), {}, "taken as 0 … 16777215"),
        (ramp(8421504.5, "<i4"), {"format": 2}, "taken as 0 … 2147483647"),
        (ramp(16843009, "<u4"), {}, "taken as 0 … 4294967295"),
        (ramp(1 / 255, "<f4"), {"format": 3}, "of 0 … 1, taken as 0 … 1"),
        (ramp(1, "<f4"), {"format": 3}, "taken as 0 … 255"),
        (ramp(257, "<f4"), {"format": 3}, "taken as 0 … 65535"),
    ],
)
def test_deep_tiffs_keep_their_range(tmp_path: Path, values: np.ndarray, tags: dict, note: str) -> None:
    write_tiff(tmp_path / "p.tif", values, **tags)
    image, notes = look_at(tmp_path / "p.tif")
    assert np.abs(np.asarray(image)[8, :, 1].astype(int) - np.arange(256)).max() <= 1
    assert note in notes[0] if note else not notes, notes


def test_highlights_over_white_are_clipped(tmp_path: Path) -> None:
    values = np.full((64, 64), 0.5, "<f4")
    values[0, :10] = 7.5
    write_tiff(tmp_path / "p.tif", values, format=3)
    pixels = np.asarray(read_image(tmp_path / "p.tif"))
    assert pixels[0, 0].tolist() == [255] * 3 and pixels[30, 30].tolist() == [128] * 3


@pytest.mark.parametrize(
    ("values", "kind", "words"),
    [
        (np.full((16, 16), np.nan, "<f4"), 3, "not finite"),
        (np.full((16, 16), np.inf, "<f4"), 3, "not finite"),
        (np.full((16, 16), -5.0, "<f4"), 3, "floating point pixels of -5"),
        (np.full((16, 16), 1e9, "<f4"), 3, "floating point pixels of 1e"),
        (np.full((16, 16), -7, "<i4"), 2, "negative pixels"),
        (np.full((16, 16), 7, "<u8"), 1, "a kind that can't be read"),
    ],
)
def test_ranges_that_can_not_be_told_are_refused(tmp_path: Path, values: np.ndarray, kind: int, words: str) -> None:
    write_tiff(tmp_path / "p.tif", values, format=kind)
    with pytest.raises(InputFileError, match=words) as caught:
        read_image(tmp_path / "p.tif")
    assert "PNG" in caught.value.hint


def write_png(path: Path, rows: list[bytes], width: int, bits: int, colour: int, clear: bytes) -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, len(rows), bits, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = (chunk(b"IHDR", head), chunk(b"tRNS", clear), chunk(b"IDAT", pixels), chunk(b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


@pytest.mark.parametrize(
    ("bits", "colour", "row", "clear", "expected"),
    [
        (16, 0, struct.pack(">4H", 257 * 10, 257 * 10 + 1, 257 * 200, 0), struct.pack(">H", 257 * 10), [255, 10, 200, 0]),
        (4, 0, bytes([0x05, 0xAF]), struct.pack(">H", 5), [0, 255, 170, 255]),
        (2, 0, bytes([0b00_01_10_11]), struct.pack(">H", 1), [0, 255, 170, 255]),
        (1, 0, bytes([0b0101_0000]), struct.pack(">H", 0), [255, 255, 255, 255]),
        (8, 0, bytes([1, 2, 3, 4]), struct.pack(">H", 2), [1, 255, 3, 4]),
        (8, 2, bytes([1, 2, 3] * 2 + [9, 9, 9] * 2), struct.pack(">3H", 1, 2, 3), [255, 255, 9, 9]),
        (
            16, 2, struct.pack(">12H", *[0x0C22] * 3, *[0x220C] * 3, *[0x8080] * 3, *[0] * 3),
            struct.pack(">3H", *[0x220C] * 3), [12, 255, 128, 0],
        ),
    ],
)  # fmt: skip
def test_one_transparent_colour_at_any_depth(
    tmp_path: Path, bits: int, colour: int, row: bytes, clear: bytes, expected: list[int]
) -> None:
    write_png(tmp_path / "p.png", [row] * 4, 4, bits, colour, clear)
    assert np.asarray(read_image(tmp_path / "p.png"))[1, :, 0].tolist() == expected


def test_sixteen_bit_colours_are_read_as_eight(tmp_path: Path) -> None:
    row = struct.pack(">6H", 65535, 32896, 0, 25700, 12850, 51400)
    write_png(tmp_path / "p.png", [row] * 2, 2, 16, 2, struct.pack(">3H", 1, 1, 1))
    found = np.asarray(read_image(tmp_path / "p.png"))[0].astype(int)
    assert np.abs(found - [(255, 128, 0), (100, 50, 200)]).max() <= 1


def test_lab_without_a_profile(tmp_path: Path) -> None:
    lab = Image.merge("LAB", [Image.new("L", (16, 16), v) for v in (128, 128 + 60, 128 + 40)])
    lab.save(tmp_path / "p.tif")
    assert TiffImagePlugin.TiffImageFile(tmp_path / "p.tif").mode == "LAB"
    y = (128 / 255 * 100 + 16) / 116
    expected = srgb_of((D50 * np.array([y + 60 / 500, y, y - 40 / 200]) ** 3)[:, None])[:, 0]
    assert np.abs(seen(tmp_path / "p.tif")[0] - expected).max() <= 4
