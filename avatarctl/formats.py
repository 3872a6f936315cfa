"""Endings of the files that folders are searched for."""

from __future__ import annotations

# Pictures that `avatarctl.networks.images` reads; .heic and .heif need the extra of that name.
PICTURES = (
    ".avif",
    ".bmp",
    ".gif",
    ".heic",
    ".heif",
    ".jfif",
    ".jp2",
    ".jpe",
    ".jpeg",
    ".jpg",
    ".png",
    ".tga",
    ".tif",
    ".tiff",
    ".webp",
)
