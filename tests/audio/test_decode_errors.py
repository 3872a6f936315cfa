"""Tests with files that are no complete recordings: each is refused with its path, what it is and what to do."""

import http.server
import os
import shlex
import subprocess
import sys
import threading

import numpy as np
import psutil
import pytest
from PIL import Image

from avatarctl.audio.decode import probe, read_blocks, waveform_16k, write_waveform
from avatarctl.errors import AvatarError, InputFileError, UsageError


def refusal(path, *span):
    with pytest.raises(InputFileError) as caught:
        for _ in read_blocks(path, *span)[2]:
            pass
    assert str(path) in caught.value.message
    assert ": got " in caught.value.message
    assert ", expected " in caught.value.message
    assert caught.value.hint
    return caught.value.message


def test_missing_folder_empty_and_special_files(tmp_path):
    assert "no such file" in refusal(tmp_path / "none.wav")
    assert "no such file" in refusal(tmp_path / "none" / "none.wav")
    assert "a folder" in refusal(tmp_path)
    (tmp_path / "empty.wav").touch()
    assert "an empty file" in refusal(tmp_path / "empty.wav")
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refusal(tmp_path / "pipe")


def test_what_is_not_audio(tmp_path):
    (tmp_path / "notes.wav").write_text("Hello, this is a text.\n" * 50)
    assert "can't be decoded" in refusal(tmp_path / "notes.wav")
    (tmp_path / "random.mp3").write_bytes(np.random.default_rng(0).bytes(20_000))
    assert "can't be decoded" in refusal(tmp_path / "random.mp3")
    Image.new("RGB", (64, 64)).save(tmp_path / "picture.png")
    assert "without sound (video png)" in refusal(tmp_path / "picture.png")


def test_video_without_sound(encode):
    path = encode(
        "a.mp4", np.zeros((1, 1)), 16000, "-map", "0:v", "-c:v", "libx264", first_source="testsrc=d=1:s=64x64"
    )
    assert "without sound (video h264)" in refusal(path)


def test_file_that_may_not_be_read(tmp_path):
    path = tmp_path / "secret.wav"
    path.write_bytes(b"RIFF")
    path.chmod(0)
    ask = (
        "import os, sys; from pathlib import Path; from avatarctl.audio.decode import probe\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"  # root may read everything
        "try: probe(Path(sys.argv[1]))\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    said = subprocess.run([sys.executable, "-c", ask, str(path)], check=True, capture_output=True, text=True).stdout
    assert said.startswith(f"InputFileError {path}: got a file that may not be read")


def test_no_samples(encode):
    assert "without a single sample" in refusal(encode("a.wav", np.zeros((0, 1)), 16000))
    path = encode("b.wav", np.zeros((1, 1)), 44100)
    with pytest.raises(InputFileError, match="less than one sample at 16000 Hz"):
        waveform_16k(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite(encode, noise, value):
    samples_TC = noise(3 * 8000, 2)
    samples_TC[int(2.25 * 8000), 1] = value
    path = encode("a.wav", samples_TC, 8000, "-c:a", "pcm_f32le")
    assert "at 2.250 s" in refusal(path)
    assert "at 2.250 s" in refusal(path, 1.75)
    assert len(waveform_16k(path, 0, 2.25)) == 2.25 * 16000  # what is not asked for does no harm


def test_start_and_duration_outside_the_recording(encode, noise):
    path = encode("a.wav", noise(8000), 8000)
    assert "a start at 1.000 s, expected one before the end at 1.000 s" in refusal(path, 1)
    assert "a start at 70.000 s" in refusal(path, 70)
    for span in [(-0.1, None), (0, 0), (0, -1), (0, 1e-6)]:
        with pytest.raises(UsageError, match=r"got .*, expected"):
            read_blocks(path, *span)


CUT = [
    ("a.wav", ()),
    ("a.flac", ()),
    ("a.mp3", ()),
    ("a.aac", ()),
    ("a.m4a", ()),
    ("begun.m4a", ("-movflags", "+faststart")),
    ("a.ogg", ("-c:a", "libvorbis")),
    ("a.opus", ()),
    ("a.webm", ()),
    ("a.mkv", ("-c:a", "aac")),
    ("a.avi", ("-c:a", "libmp3lame")),
]


@pytest.mark.parametrize(("name", "options"), CUT, ids=[row[0] for row in CUT])
def test_cut_off_file_is_refused_not_shortened(encode, noise, name, options):
    path = encode(name, noise(4 * 48000), 48000, *options)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10 + 3])
    if name == "a.m4a":  # its index stood at the end
        assert "moov atom not found" in refusal(path)
        return
    message = refusal(path)
    assert "damaged or cut off" in message
    assert 1.5 < float(message.split("(")[1].split(" s can be read")[0]) < 3
    assert len(waveform_16k(path, 0, 1)) == 16000  # the beginning alone can be used


@pytest.mark.parametrize("size", [44 + 4096 * 10, -1, -100])
def test_wav_cut_between_two_packets(encode, noise, size):
    path = encode("a.wav", noise(48000), 48000, "-bitexact")
    path.write_bytes(path.read_bytes()[:size])
    assert "damaged or cut off" in refusal(path)


def test_ogg_cut_in_or_before_its_last_page(encode, noise):
    path = encode("a.ogg", noise(4 * 48000), 48000, "-c:a", "libvorbis")
    data = path.read_bytes()
    for size in (len(data) - 1, data.rindex(b"OggS")):
        path.write_bytes(data[:size])
        assert "damaged or cut off" in refusal(path)


@pytest.mark.parametrize(
    ("name", "pictures_s", "options"),
    [
        ("cover.mp3", 0.04, ("-disposition:v", "attached_pic")),  # one picture has no duration of its own
        ("film.webm", 3, ("-c:v", "libvpx")),  # longer than its sound
        ("film.avi", 3, ()),
    ],
)
def test_cut_off_file_with_pictures(encode, noise, name, pictures_s, options):
    pictures = f"testsrc=d={pictures_s}:s=64x64"
    path = encode(name, noise(2 * 48000), 48000, "-map", "1:a", "-map", "0:v", *options, first_source=pictures)
    assert sum(map(len, read_blocks(path)[2])) >= 2 * 48000
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert "damaged or cut off" in refusal(path)


def test_damage_in_the_middle(encode, noise):
    path = encode("a.flac", noise(4 * 48000), 48000)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 2000] = bytes(2000)
    path.write_bytes(data)
    assert "damaged or cut off" in refusal(path)


def test_killed_ffmpeg_is_an_error(encode, noise):
    path = encode("a.wav", noise(60 * 44100), 44100)
    _, _, blocks = read_blocks(path)
    next(blocks)
    next(child for child in psutil.Process().children() if "ffmpeg" in child.name()).kill()
    with pytest.raises(InputFileError, match="damaged or cut off"):
        list(blocks)


def test_hint_repairs_a_cut_off_file(encode, noise, tmp_path, monkeypatch):
    path = encode("it's cut.wav", noise(48000), 48000)
    path.write_bytes(path.read_bytes()[:-40_001])
    with pytest.raises(InputFileError) as caught:
        write_waveform(path, tmp_path / "waveform")
    monkeypatch.chdir(tmp_path)
    subprocess.run(shlex.split(caught.value.hint.partition(": ")[2]), check=True, capture_output=True)
    assert len(waveform_16k(tmp_path / "repaired.flac")) > 8000


def test_missing_ffmpeg(encode, noise, tmp_path, monkeypatch):
    path = encode("a.wav", noise(800), 16000)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "no-ffmpeg"))
    with pytest.raises(AvatarError, match=r"ffmpeg: got .*no-ffmpeg") as caught:
        probe(path)
    assert "imageio-ffmpeg" in caught.value.hint


def test_playlist_does_not_reach_the_network(tmp_path):
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/a.aac"
        (tmp_path / "a.m3u8").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{address}\n#EXT-X-ENDLIST\n")
        refusal(tmp_path / "a.m3u8")
        server.shutdown()
    assert not asked
