"""Tell the kinds of picture files apart: those that Pillow decodes itself, HEIF, and those that nothing here reads."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from avatarctl.errors import InputFileError

# Decoded by Pillow's own code: nothing here starts another program, as EPS and WMF would, or is no picture of its own.
FORMATS = (
    "AVIF", "BMP", "CUR", "DCX", "DDS", "DIB", "GIF", "ICNS", "ICO", "JPEG", "JPEG2000", "PCX", "PNG", "PPM",
    "PSD", "QOI", "SGI", "SUN", "TGA", "TIFF", "WEBP", "XBM", "XPM",
)  # fmt: skip
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"heif")
SAVE = "open it in its own program and save it as PNG or JPEG"
# How files begin that are taken for pictures.
KNOWN = (
    (b"%!PS", "EPS, which is a program and no pixels", SAVE),
    (b"\xc5\xd0\xd3\xc6", "EPS, which is a program and no pixels", SAVE),
    (b"%PDF", "a PDF", "export its picture as PNG or JPEG"),
    (b"\xff\x0a", "JPEG XL", SAVE),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL", SAVE),
    (b"version https://git-lfs", "a pointer of git-lfs, not the picture itself", "git lfs pull"),
    (b"II*\0", "a TIFF with pixels of a kind that can't be read", SAVE),
    (b"MM\0*", "a TIFF with pixels of a kind that can't be read", SAVE),
)
RAW = ("a camera's raw picture, of which this reads the thumbnail alone", "develop it: export it as JPEG or PNG")
DNG_VERSION, KIND_OF_PICTURE = 50706, 254  # tags of TIFF


def is_heif(start: bytes) -> bool:
    """Return whether a file that begins so holds HEIC or HEIF pictures, whatever its name says; AVIF is Pillow's."""
    if start[4:8] != b"ftyp":
        return False
    brands = start[8 : min(int.from_bytes(start[:4]), len(start))]
    names = [brands[place : place + 4] for place in range(0, len(brands), 4)]
    if names and names[0] in (b"avif", b"avis"):
        return False
    return any(name in HEIF_BRANDS for name in names) or (bool(names) and names[0] == b"mif1" and b"avif" not in names)


def register_heif(path: Path) -> None:
    """Teach Pillow HEIF; raises ``InputFileError`` where the extra isn't installed."""
    try:
        from pi_heif import register_heif_opener
    except ImportError as error:
        raise InputFileError(
            f"{path}: got HEIC, the format of phones' pictures, which needs an extra package",
            "pip install 'avatarctl[heic]', or save the picture as JPEG",
        ) from error
    Image.init()
    if "HEIF" not in Image.OPEN:
        register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)


def beyond_us(start: bytes, opened: Image.Image | None = None) -> tuple[str, str]:
    """Say what a file is that isn't read, and what to do with it: by its first bytes, or (raw pictures) as opened."""
    if opened is not None:
        tags = getattr(opened, "tag_v2", {})
        return RAW if DNG_VERSION in tags or int(tags.get(KIND_OF_PICTURE, 0)) & 1 else ("", "")
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page that is not a picture", "download the picture itself"
    if text.startswith(b"<svg") or b"<svg" in text[:1024]:
        return "SVG, which is not a picture of pixels", "export it as PNG"
    for begin, what, hint in KNOWN:
        if start.startswith(begin):
            return what, hint
    return "a file that is not a picture", "choose a picture"
