"""Show which picture files are read, whatever their name, size and metadata, and how the others are refused."""

from __future__ import annotations

import importlib.util
import os
import random
import socket
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from heic import write_heic
from icc import ADOBE_RGB, D65, rgb_profile, srgb_of, to_xyz
from PIL import Image, PngImagePlugin

from avatarctl.errors import InputFileError
from avatarctl.formats import PICTURES
from avatarctl.networks.images import framing, load_image, look_at, read_image

needs_heic = pytest.mark.skipif(importlib.util.find_spec("pi_heif") is None, reason="needs the extra heic")


def halves(width: int, height: int) -> np.ndarray:
    """Left half a red, right half a blue."""
    pixels = np.full((height, width, 3), (200, 30, 40), np.uint8)
    pixels[:, width // 2 :] = (20, 60, 220)
    return pixels


def photo(width: int, height: int) -> Image.Image:
    """Something with detail everywhere, as coded pictures of a camera have it."""
    noise = np.random.default_rng(0).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


# -- HEIC --------------------------------------------------------------------------------------------------------------


@needs_heic
@pytest.mark.parametrize("name", ["p.heic", "p.jpg"])
def test_heic_is_read_whatever_its_name(tmp_path: Path, name: str) -> None:
    write_heic(tmp_path / name, halves(96, 64))
    found = np.asarray(read_image(tmp_path / name)).astype(int)
    assert found.shape == (64, 96, 3)
    assert np.abs(found[:, 4:44] - (200, 30, 40)).max() <= 2 and np.abs(found[:, 52:92] - (20, 60, 220)).max() <= 2


@needs_heic
def test_heic_is_turned_and_its_profile_converted(tmp_path: Path) -> None:
    write_heic(tmp_path / "p.heic", halves(96, 64), rgb_profile(ADOBE_RGB, 2.2), turns=1)
    found = np.asarray(read_image(tmp_path / "p.heic")).astype(float)
    assert found.shape == (96, 64, 3)
    for row, colour in ((80, (200, 30, 40)), (10, (20, 60, 220))):
        right = srgb_of(to_xyz(ADOBE_RGB, D65) @ (np.array(colour)[:, None] / 255) ** 2.2)[:, 0]
        assert np.abs(found[row, 30] - right).max() <= 3


@needs_heic
def test_heic_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    write_heic(tmp_path / "p.heic", np.asarray(photo(128, 128)))
    whole = (tmp_path / "p.heic").read_bytes()
    for size in (40, 300, len(whole) // 2, len(whole) - 500):
        (tmp_path / "cut.heic").write_bytes(whole[:size])
        with pytest.raises(InputFileError, match=r"cut off|not a picture"):
            read_image(tmp_path / "cut.heic")


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"mif1"])
def test_without_the_extra_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, brand: bytes) -> None:
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    (tmp_path / "p.jpg").write_bytes(b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1heic" + b"\0" * 100)
    with pytest.raises(InputFileError, match="HEIC") as caught:
        read_image(tmp_path / "p.jpg")
    assert "pip install 'avatarctl[heic]'" in caught.value.hint


# -- Ends and metadata -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [1, 2])
@pytest.mark.parametrize(
    "how", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"restart_marker_blocks": 3}, {"subsampling": 0}]
)
def test_jpeg_without_its_end_marker_is_shown(tmp_path: Path, missing: int, how: dict) -> None:
    photo(120, 72).save(tmp_path / "p.jpg", **how)
    whole = (tmp_path / "p.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[:-missing])
    assert np.array_equal(read_image(tmp_path / "cut.jpg"), read_image(tmp_path / "p.jpg"))


@pytest.mark.parametrize("how", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"restart_marker_blocks": 3}])
def test_jpeg_that_lacks_pixels_is_refused(tmp_path: Path, how: dict) -> None:
    photo(120, 72).save(tmp_path / "p.jpg", **how)
    whole = (tmp_path / "p.jpg").read_bytes()
    restarts = [place for place in range(len(whole)) if whole[place] == 0xFF and whole[place + 1] in range(0xD0, 0xD8)]
    sizes = [
        *random.Random(0).sample(range(700, len(whole) - 8), 12),
        *restarts[:: len(restarts) // 5 + 1],
        len(whole) - 8,
    ]
    for size in sizes:
        (tmp_path / "cut.jpg").write_bytes(whole[:size])
        with pytest.raises(InputFileError, match="cut off"):
            read_image(tmp_path / "cut.jpg")


@pytest.mark.parametrize("zipped", [False, True])
def test_png_with_text_of_any_size(tmp_path: Path, zipped: bool) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", "x" * (70 << 20), zip=zipped)
    info.add_itxt("prompt", "y" * (2 << 20), zip=zipped)
    Image.fromarray(halves(64, 64)).save(tmp_path / "p.png", pnginfo=info)
    assert np.array_equal(read_image(tmp_path / "p.png"), halves(64, 64))


def test_png_with_a_large_profile(tmp_path: Path) -> None:
    profile = rgb_profile(ADOBE_RGB, 2.2)
    large = (len(profile) + (3 << 20)).to_bytes(4) + profile[4:] + b"\0" * (3 << 20)
    for name, content in (("small.png", profile), ("large.png", large)):
        Image.fromarray(halves(64, 64)).save(tmp_path / name, icc_profile=content)
    small, found = (np.asarray(read_image(tmp_path / name)) for name in ("small.png", "large.png"))
    assert np.array_equal(found, small) and not np.array_equal(found, halves(64, 64))


# -- Large pictures ----------------------------------------------------------------------------------------------------


def test_large_pictures_are_reduced_as_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a hundredth of the size: reduced by whole numbers, upright, from the same pixels."""
    monkeypatch.setattr("avatarctl.networks.images.LARGE", 1 << 14)
    monkeypatch.setattr("avatarctl.networks.images.SHORTEST", 32)
    picture = photo(400, 300)
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, how in (("p.png", {}), ("p.jpg", {"quality": 95}), ("p.webp", {"lossless": True}), ("p.tif", {})):
        picture.save(tmp_path / name, exif=exif, **how)
        found = read_image(tmp_path / name)
        assert found.size == (300 // 4, 400 // 4)
        right = np.asarray(picture.reduce(4).transpose(Image.Transpose.ROTATE_270)).astype(int)
        assert np.abs(np.asarray(found).astype(int) - right).mean() < 3, name
    for mode in ("L", "RGBA", "P", "CMYK", "I;16", "1"):
        name = f"{mode.replace(';', '')}.tif"
        deep = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
        (deep if mode == "I;16" else picture.convert(mode)).save(tmp_path / name)
        assert read_image(tmp_path / name).size == (100, 75), mode


@pytest.mark.long
@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_a_picture_of_a_phone_of_200_megapixels(tmp_path: Path, ending: str) -> None:
    size = (16320, 12240)
    Image.new("RGB", size, (200, 30, 40)).save(tmp_path / f"p.{ending}")
    found = read_image(tmp_path / f"p.{ending}")
    assert found.size == (4080, 3060) and np.abs(np.asarray(found)[1000, 1000].astype(int) - (200, 30, 40)).max() <= 2


def test_bombs_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    Image.new("1", (8, 8)).save(tmp_path / "p.png")
    small = (tmp_path / "p.png").read_bytes()
    head = b"IHDR" + struct.pack(">II", 30000, 30000) + small[24:29]
    (tmp_path / "p.png").write_bytes(small[:12] + head + struct.pack(">I", zlib.crc32(head)) + small[33:])
    with pytest.raises(InputFileError, match=r"got 30000x30000, more than 268435455 pixels"):
        read_image(tmp_path / "p.png")


# -- What is no picture, and what nothing here reads --------------------------------------------------------------------


def test_pipes_sockets_and_devices_are_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
    reading, writing = os.pipe()
    try:
        for path in (tmp_path / "pipe.png", tmp_path / "socket.png", Path("/dev/zero"), Path(f"/dev/fd/{reading}")):
            with pytest.raises(InputFileError, match="a pipe or a device") as caught:
                read_image(path)
            assert "to a file first" in caught.value.hint
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n", "EPS"),
        (b"%PDF-1.7\n", "a PDF"),
        (b"\n<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"<!DOCTYPE html><html></html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git-lfs"),
        (b"\xff\x0a\x00\x00", "JPEG XL"),
        (b"RIFF\0\0\0\0WAVEfmt ", "not a picture"),
    ],
)
def test_other_files_are_named(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "p.png").write_bytes(content)
    with pytest.raises(InputFileError, match=words) as caught:
        read_image(tmp_path / "p.png")
    assert caught.value.hint


def test_a_raw_picture_is_no_thumbnail(tmp_path: Path) -> None:
    Image.fromarray(halves(64, 64)).save(tmp_path / "p.dng", "TIFF", tiffinfo={50706: b"\x01\x04\0\0", 254: 1})
    with pytest.raises(InputFileError, match="raw"):
        read_image(tmp_path / "p.dng")


def test_every_ending_that_folders_are_searched_for_is_read(tmp_path: Path) -> None:
    for ending in PICTURES:
        path = tmp_path / f"p{ending}"
        if ending in (".heic", ".heif"):
            continue
        Image.fromarray(halves(64, 64)).save(path, "JPEG" if ending == ".jfif" else None)
        assert np.abs(np.asarray(read_image(path))[8, 8].astype(int) - (200, 30, 40)).max() <= 12, ending


@pytest.mark.parametrize(
    "ending", ["png", "jpg", "webp", "gif", "bmp", "tiff", "avif", "jp2", "tga", "ico", "pcx", "dds"]
)
def test_damage_is_an_error_that_names_the_file(tmp_path: Path, ending: str) -> None:
    """Bytes of every kind of file changed or missing: read all the same, or an error, never anything else."""
    Image.fromarray(halves(64, 64)).save(tmp_path / f"p.{ending}")
    whole, draw = (tmp_path / f"p.{ending}").read_bytes(), random.Random(1)
    for _ in range(60):
        bad = bytearray(whole)
        for _ in range(draw.randrange(1, 12)):
            bad[draw.randrange(min(len(bad), 400))] = draw.randrange(256)
        (tmp_path / "bad").write_bytes(bad[: draw.choice([len(bad), draw.randrange(len(bad))])])
        try:
            assert read_image(tmp_path / "bad").mode == "RGB"
        except InputFileError as error:
            assert str(tmp_path / "bad") in error.message and error.hint


# -- Framing -----------------------------------------------------------------------------------------------------------


def test_what_is_cut_off_is_told(tmp_path: Path) -> None:
    path = Path("p.png")
    (note,) = framing(path, (256, 512), (512, 512), "cover")[:1]
    assert (
        "50% of the picture is cut off" in note and "25% at the top, 25% at the bottom" in note and "--fit pad" in note
    )
    assert "25% at the left, 25% at the right" in framing(path, (2000, 1000), (1000, 1000), "cover")[0]
    assert framing(path, (1000, 1200), (1000, 1000), "cover") == ()  # 17 %
    assert framing(path, (256, 512), (256, 256), "pad") == ()
    (note,) = framing(path, (100, 100), (256, 256), "pad")
    assert "100x100, under half of 256x256" in note
    Image.fromarray(halves(64, 128)).save(tmp_path / "p.png")
    assert "50%" in load_image(tmp_path / "p.png", 64, 64).warnings[0]


def test_notes_of_the_picture_come_with_it(tmp_path: Path) -> None:
    Image.fromarray(halves(64, 64)).save(tmp_path / "p.png", icc_profile=b"nothing")
    assert look_at(tmp_path / "p.png").notes == load_image(tmp_path / "p.png", 64, 64).warnings != ()
