"""Tests with MP4 files cut into fragments: every picture and packet is there, at its time, whatever the codec."""

from __future__ import annotations

import subprocess
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg
import pytest

from avatarctl.errors import InputFileError
from avatarctl.render.video import inspect
from avatarctl.serve import mp4

CODECS = {
    "libx264": "avc1.",
    "libx265": "hvc1.1.6.L",
    "libsvtav1": "av01.0.",
    "libvpx-vp9": "vp09.00.",
}


def film(folder: Path, encoder: str, rate: str, seconds: float = 1.0) -> Path:
    """Return a film with sound."""
    path = folder / f"{encoder}.mp4"
    source = [
        "-f",
        "lavfi",
        "-i",
        f"testsrc=s=128x64:r={rate}:d={seconds}",
        "-f",
        "lavfi",
        "-i",
        f"sine=r=44100:d={seconds}",
    ]
    video = [
        "-c:v",
        encoder,
        "-pix_fmt",
        "yuv420p",
        "-bf",
        "0",
        "-g",
        "5",
        *(["-tag:v", "hvc1"] if "265" in encoder else []),
    ]
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-v",
        "error",
        "-y",
        *source,
        *video,
        "-c:a",
        "aac",
        "-shortest",
        str(path),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this ffmpeg can't encode with {encoder}: {done.stderr[-200:]}")
    return path


@pytest.mark.parametrize("encoder", CODECS)
def test_a_film_in_fragments_is_the_film(tmp_path: Path, encoder: str) -> None:
    fps = Fraction(30000, 1001) if encoder == "libx264" else Fraction(25)
    source = film(tmp_path, encoder, str(fps))
    tracks = mp4.read_tracks(source)
    video, sound = tracks["vide"], tracks["soun"]
    assert mp4.codec_of(video).startswith(CODECS[encoder]) and mp4.codec_of(sound) == "mp4a.40.2"
    assert (video.width, video.height) == (128, 64) and video.samples[0].sync and sound.skip == 1
    scale, duration = mp4.timescale_of(fps)
    parts = [mp4.init([video, sound], [scale, sound.rate])]
    count = len(video.samples)
    heard = sound.samples[sound.skip :]
    middle = (
        next(n for n, sample in enumerate(video.samples) if n and sample.sync) if encoder != "libsvtav1" else count // 2
    )
    for number, (begin, end) in enumerate(((0, middle), (middle, count))):
        a, b = (round(picture / fps * sound.rate / 1024) for picture in (begin, end))
        pieces = [
            mp4.Piece(1, source, video.samples[begin:end], begin * duration, duration),
            mp4.Piece(2, source, heard[a:b], a * 1024, 1024),
        ]
        parts.append(mp4.fragment(number + 1, pieces))
    (tmp_path / "whole.mp4").write_bytes(b"".join(parts))
    found = inspect(tmp_path / "whole.mp4")
    assert found.pictures == count and found.fps == fps and found.audio_codec == "aac"
    assert found.audio_s == pytest.approx(count / fps, abs=0.05)


def test_what_is_no_film_is_said(tmp_path: Path) -> None:
    for content in (b"", b"not a film at all, really", bytes(64)):
        (tmp_path / "x.mp4").write_bytes(content)
        with pytest.raises(InputFileError, match="expected an MP4"):
            mp4.read_tracks(tmp_path / "x.mp4")
