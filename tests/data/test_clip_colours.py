"""Show that the colours of clips are those that a player shows: tagged or not, SD and HD, HDR, wide, turned, of 10 bits."""

from __future__ import annotations

import subprocess
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from footage import ffmpeg

from avatarctl.data import clip_colours
from avatarctl.data.clips import film_of, stream
from avatarctl.errors import InputFileError

RED = (200, 30, 40)
X264 = ("-c:v", "libx264", "-crf", "4")
X265 = ("-c:v", "libx265", "-crf", "4", "-x265-params")


def first(path: Path, size: tuple[int, int] = (96, 64), like: bool = False) -> np.ndarray:
    film = film_of(path)
    pictures = stream(film, size, Fraction(25), film if like else None)
    try:
        return next(pictures)[size[1] // 2, size[0] // 2].astype(int)
    finally:
        pictures.close()


def clip(
    path: Path, size: str, matrix: str, tags: str, *more: str, coder: tuple = X264, pixels: str = "yuv420p"
) -> Path:
    """Write one colour, coded by ``matrix``, and say ``tags`` of it."""
    filters = (
        f"format=gbrp,scale=out_color_matrix={matrix}:out_range=tv:flags=accurate_rnd,format={pixels},setparams={tags}"
    )
    ffmpeg("-f", "lavfi", "-i", f"color=c=0xC81E28:s={size}:r=25:d=0.12", "-vf", filters, *coder, *more, str(path))
    return path


NOTHING = "colorspace=unknown:color_primaries=unknown:color_trc=unknown"
SAME = "colorspace={0}:color_primaries={0}:color_trc={0}"


@pytest.mark.parametrize(
    ("size", "matrix", "tags"),
    [
        ("1280x720", "bt709", NOTHING),
        ("720x1280", "bt709", NOTHING),
        ("1280x640", "bt709", NOTHING),
        ("960x720", "bt709", NOTHING),
        ("720x576", "bt601", NOTHING),
        ("640x480", "bt601", NOTHING),
        ("640x480", "bt709", SAME.format("bt709")),
        ("1280x720", "bt601", SAME.format("smpte170m")),
        ("1280x720", "bt601", "colorspace=bt470bg:color_primaries=bt709:color_trc=bt709"),
        ("640x480", "bt709", "colorspace=unknown:color_primaries=bt709:color_trc=bt709"),
        ("1280x720", "bt601", "colorspace=unknown:color_primaries=bt470bg:color_trc=unknown"),
    ],
)
@pytest.mark.parametrize("pixels", ["yuv420p", "yuv420p10le"])
def test_matrix_by_tag_else_by_size(tmp_path: Path, size: str, matrix: str, tags: str, pixels: str) -> None:
    path = clip(tmp_path / "c.mp4", size, matrix, tags, pixels=pixels)
    assert np.abs(first(path) - RED).max() <= 3


def test_turned_hd_without_tags(tmp_path: Path) -> None:
    flat = clip(tmp_path / "flat.mp4", "1280x720", "bt709", NOTHING)
    ffmpeg("-display_rotation", "90", "-i", str(flat), "-c", "copy", str(tmp_path / "turned.mp4"))
    film = film_of(tmp_path / "turned.mp4")
    assert (film.width, film.height) == (720, 1280)
    assert np.abs(first(tmp_path / "turned.mp4", (64, 96)) - RED).max() <= 3


def test_masks_and_greys_stay_as_they_are(tmp_path: Path) -> None:
    for level in (0, 100, 255):
        colour = f"color=c=0x{level:02x}{level:02x}{level:02x}:s=1280x720:r=25:d=0.12"
        ffmpeg("-f", "lavfi", "-i", colour, *X264, "-pix_fmt", "yuv420p", str(tmp_path / "m.mp4"))
        assert np.abs(first(tmp_path / "m.mp4", like=True) - level).max() <= 1
        assert np.abs(first(tmp_path / "m.mp4") - level).max() <= 1


def hdr(path: Path, transfer: str, primaries: str = "bt2020", matrix: str = "bt2020nc") -> Path:
    """Write the colour, and white above it, as a camera codes them in high dynamic range or wide colours."""
    half = "color=c={}:s=320x120:r=25:d=0.12,format=gbrp"
    given = "setparams=colorspace=gbr:color_primaries=bt709:color_trc=bt709:range=pc"
    coded = f"zscale=p={primaries}:t={transfer}:m={matrix}:r=tv:npl=203,format=yuv420p10le"
    graph = f"[0][1]vstack,{given},zscale=t=linear:npl=203,format=gbrpf32le,{coded}"
    tags = f"log-level=none:colorprim={primaries}:transfer={transfer}:colormatrix={matrix}"
    sources = ["-f", "lavfi", "-i", half.format("white"), "-f", "lavfi", "-i", half.format("0xC81E28")]
    try:
        ffmpeg(*sources, "-filter_complex", graph, *X265, tags, str(path))
    except subprocess.CalledProcessError:
        pytest.skip("this ffmpeg has no zscale or no libx265")
    return path


@pytest.mark.parametrize(("transfer", "name"), [("smpte2084", "PQ"), ("arib-std-b67", "HLG")])
def test_hdr_is_mapped_to_the_tones_of_a_screen(tmp_path: Path, transfer: str, name: str) -> None:
    film = film_of(hdr(tmp_path / "c.mp4", transfer))
    assert f"HDR ({name})" in film.colours.note
    (picture,) = [next(stream(film, (96, 72), Fraction(25))).astype(int)]
    white, red = picture[10, 48], picture[60, 48]
    assert white.min() >= 205 and np.ptp(white) <= 2  # some room is left for highlights
    assert np.abs(red - RED).max() <= 12  # unmapped it is (125, 77, 79) and paler
    assert red[0] - red[1] > 150


def test_wide_colours_are_brought_to_those_of_a_screen(tmp_path: Path) -> None:
    film = film_of(hdr(tmp_path / "c.mp4", "bt709", "smpte432", "bt709"))
    picture = next(stream(film, (96, 72), Fraction(25))).astype(int)
    assert np.abs(picture[60, 48] - RED).max() <= 3 and picture[10, 48].min() >= 253 and not film.colours.note


def test_without_the_filters_hdr_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = hdr(tmp_path / "c.mp4", "smpte2084")
    monkeypatch.setattr(clip_colours, "_has_zscale", lambda: False)
    with pytest.raises(InputFileError, match=r"HDR \(PQ\), which this ffmpeg can't convert") as caught:
        film_of(path)
    assert "SDR" in caught.value.hint


def test_dolby_vision_without_a_picture_for_others_is_refused() -> None:
    track = "  Stream #0:0(und): Video: hevc (Main 10) (dvh1 / 0x31687664), yuv420p10le(pc), 1920x1080, 25 fps"
    below = "\n    Side data:\n      DOVI configuration record: version: 1.0, profile: 5, level: 6, rpu flag: 1"
    with pytest.raises(InputFileError, match="Dolby Vision"):
        clip_colours.colours_of(Path("c.mp4"), track, below, 1920, 1080)


@pytest.mark.parametrize(
    ("line", "before"),
    [
        ("Video: h264 (High) (avc1 / 0x31637661), yuv420p(progressive), 1920x1080 [SAR 1:1], 25 fps", ("bt709",)),
        ("Video: h264 (High), yuv420p(tv, bt709, progressive), 1920x1080, 25 fps", ()),
        ("Video: mjpeg (Baseline), yuvj420p(pc, bt470bg/unknown/unknown), 1920x1080, 25 fps", ()),
        ("Video: rawvideo (RGB[24] / 0x18424752), rgb24, 1920x1080, 25 fps", ()),
        ("Video: qtrle, argb, 1920x1080, 25 fps", ()),
        ("Video: ffv1, gray, 1920x1080, 25 fps", ()),
        ("Video: rawvideo, nv12, 1920x1080, 25 fps", ("bt709",)),
    ],
)
def test_what_ffmpeg_says_is_understood(line: str, before: tuple) -> None:
    found = clip_colours.colours_of(Path("c.mp4"), f"  Stream #0:0: {line}", "", 1920, 1080)
    assert found.before == tuple(f"setparams=colorspace={matrix}" for matrix in before) and not found.after


def test_the_program_at_hand_can_map_tones() -> None:
    if (
        "zscale"
        not in subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-filters"], capture_output=True, text=True).stdout
    ):
        pytest.skip("this ffmpeg has no zscale")
    assert clip_colours._has_zscale()
