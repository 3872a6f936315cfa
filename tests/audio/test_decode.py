"""Tests with recordings in every format: samples, lengths and positions come out exactly and in flat memory."""

import os
import subprocess
import sys
from fractions import Fraction

import numpy as np
import psutil
import pytest
import soxr

from avatarctl.audio.decode import SAMPLE_RATE_HZ, probe, read_blocks, waveform_16k, write_waveform
from avatarctl.audio.source import AudioInfo

FLOAT_WAV = ("-c:a", "pcm_f32le")
WITH_PICTURES = ("-map", "1:a", "-map", "0:v")

# name, rate of the source, ffmpeg's encoder, rate decoded
FORMATS = [
    ("a.wav", 44100, ("-c:a", "pcm_s16le"), 44100),
    ("a24.wav", 48000, ("-c:a", "pcm_s24le"), 48000),
    ("a.flac", 22050, ("-c:a", "flac"), 22050),
    ("a.mp3", 44100, ("-c:a", "libmp3lame"), 44100),
    ("a.m4a", 44100, ("-c:a", "aac"), 44100),
    ("a.ogg", 44100, ("-c:a", "libvorbis"), 44100),
    ("a.opus", 48000, ("-c:a", "libopus"), 48000),
    ("a16.opus", 16000, ("-c:a", "libopus"), 48000),
    ("a.webm", 48000, ("-c:a", "libopus"), 48000),
    ("film.mp4", 48000, ("-c:a", "aac", *WITH_PICTURES, "-c:v", "libx264"), 48000),
    ("film.webm", 48000, ("-c:a", "libopus", *WITH_PICTURES, "-c:v", "libvpx"), 48000),
    ("film.mov", 44100, ("-c:a", "pcm_s16le", *WITH_PICTURES, "-c:v", "libx264"), 44100),
]


def decoded(path, start_s=0, duration_s=None):
    return np.concatenate(list(read_blocks(path, start_s, duration_s)[2]))


def decoders() -> list[psutil.Process]:
    """Return the ffmpeg processes that run for this one."""
    return [child for child in psutil.Process().children() if "ffmpeg" in child.name()]


@pytest.mark.parametrize(("name", "rate_hz", "options", "decoded_hz"), FORMATS, ids=[row[0] for row in FORMATS])
def test_length_and_click_are_exact(encode, click, name, rate_hz, options, decoded_hz):
    pictures = "testsrc=d=2:s=64x64" if name.startswith("film") else ""
    path = encode(name, click(rate_hz), rate_hz, *options, first_source=pictures)

    samples_TC = decoded(path)
    assert read_blocks(path)[:2] == (decoded_hz, 1)
    assert samples_TC.shape == (2 * decoded_hz, 1)
    # Lossy codecs too keep the click on its sample; one sample is left for a band-limited 16 kHz source at 48 kHz.
    assert abs(int(np.abs(samples_TC).argmax()) - decoded_hz) <= (0 if rate_hz == decoded_hz else 1)

    waveform_T = waveform_16k(path)
    assert waveform_T.shape == (2 * SAMPLE_RATE_HZ,)
    assert waveform_T.dtype == np.float32
    assert np.abs(waveform_T).argmax() == SAMPLE_RATE_HZ


@pytest.mark.parametrize(("name", "delay"), [("a.aac", 1024), ("a.ts", 1024), ("bare.mp3", 1105)])
def test_formats_that_hide_their_delay_begin_late_by_a_known_amount(encode, click, name, delay):
    options = ("-c:a", "libmp3lame", "-write_xing", "0") if name.endswith("mp3") else ("-c:a", "aac")
    samples_TC = decoded(encode(name, click(44100), 44100, *options))
    assert np.abs(samples_TC).argmax() - 44100 == delay


def test_lossless_samples_come_out_as_they_are(encode, noise):
    samples_TC = 20 * noise(30_001, 2)  # beyond full scale, which float keeps
    assert np.abs(samples_TC).max() > 1
    assert np.array_equal(decoded(encode("a.wav", samples_TC, 37_123, *FLOAT_WAV)), samples_TC)


def test_probe_tells_codec_channels_and_declared_duration(encode, noise):
    stereo_TC = noise(44100, 2)
    assert probe(encode("a.flac", stereo_TC, 44100)) == AudioInfo(44100, 2, "flac", 1.0, "stereo")
    assert probe(encode("a.aac", stereo_TC, 44100)) == AudioInfo(44100, 2, "aac", None, "stereo")
    assert probe(encode("a.wav", noise(48000, 6), 48000)) == AudioInfo(48000, 6, "pcm_s16le", 1.0, "5.1")
    title = ("-metadata", "title=x\n  Stream #0:0: Audio: fake, 1 Hz\n  Duration: 09:00:00.00")
    assert probe(encode("a.mp3", stereo_TC, 44100, *title)) == AudioInfo(44100, 2, "mp3", 1.0, "stereo")


def test_channels_are_averaged(encode, noise):
    left_T = noise(16000)[:, 0]
    one_sided = encode("one.wav", np.stack([left_T, 0 * left_T], 1), 16000, *FLOAT_WAV)
    assert np.array_equal(waveform_16k(one_sided), left_T / 2)
    # What cancels out is heard by the louder channel, in any form of cancelling.
    opposed = encode("opposed.wav", np.stack([left_T, -0.9 * left_T], 1), 16000, *FLOAT_WAV)
    assert np.array_equal(waveform_16k(opposed), left_T)
    mostly = encode("mostly.wav", np.stack([-0.8 * left_T, left_T + 0.1 * left_T[::-1]], 1), 16000, *FLOAT_WAV)
    assert np.array_equal(waveform_16k(mostly), left_T + np.float32(0.1) * left_T[::-1])
    surround_TC = noise(16000, 6)
    surround = encode("surround.wav", surround_TC, 16000, *FLOAT_WAV)
    assert np.array_equal(waveform_16k(surround), surround_TC.mean(axis=1))


@pytest.mark.parametrize("rate_hz", [8000, 11025, 16000, 22050, 37123, 44100, 48000, 96000, 192000])
def test_streamed_resampling_equals_resampling_in_one_go(encode, noise, tmp_path, rate_hz):
    samples_TC = noise(3 * rate_hz + 1237, 2)
    path = encode("a.wav", samples_TC, rate_hz, *FLOAT_WAV)
    expected_T = soxr.resample(samples_TC.mean(axis=1), rate_hz, SAMPLE_RATE_HZ, quality="HQ")

    assert np.array_equal(waveform_16k(path), expected_T)
    total = write_waveform(path, tmp_path / "waveform")
    assert total == len(expected_T)
    assert np.array_equal(np.memmap(tmp_path / "waveform", "<f4", "r"), expected_T)


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.m4a", "a.opus"])
@pytest.mark.parametrize(
    ("start_s", "duration_s"), [(0, 1), (Fraction(1, 3), None), (1.2345678, 0.5), (2, 1e-4), (2.9, 99)]
)
def test_start_and_duration_are_counted_in_decoded_samples(encode, noise, name, start_s, duration_s):
    path = encode(name, noise(3 * 48000), 48000)
    first = round(Fraction(start_s) * 48000)
    end = None if duration_s is None else first + round(Fraction(duration_s) * 48000)
    assert np.array_equal(decoded(path, start_s, duration_s), decoded(path)[first:end])


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0xFFFFFFFF])
def test_wav_of_undeclared_size_is_read_to_its_end(encode, noise, size):
    samples_TC = noise(44100 + 77)
    path = encode("a.wav", samples_TC, 44100, *FLOAT_WAV)
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[4:8] = data[at : at + 4] = size.to_bytes(4, "little")
    path.write_bytes(data)
    assert np.array_equal(decoded(path), samples_TC)


NAMES = ["with space.wav", "quote'\"`.wav", "new\nline.wav", "-i.wav", "Grüße 你好.wav", "a:b.wav", "http:x.wav"]
NAMES += ["100%.wav", "%03d.wav", "pipe:0", "#$&;|*?[0].wav", "\udcff.wav"]


@pytest.mark.parametrize("name", NAMES, ids=[ascii(name) for name in NAMES])
def test_any_file_name_works(encode, noise, tmp_path, monkeypatch, name):
    samples_TC = noise(800)
    path = tmp_path / name
    encode("plain.wav", samples_TC, 16000, *FLOAT_WAV).rename(path)
    assert np.array_equal(decoded(path), samples_TC)
    monkeypatch.chdir(tmp_path)
    assert np.array_equal(decoded(path.relative_to(tmp_path)), samples_TC)


def test_closing_early_ends_ffmpeg(encode, noise):
    path = encode("a.wav", noise(30 * 44100), 44100)
    _, _, blocks = read_blocks(path)
    assert not decoders()  # nothing runs before the first block
    assert next(blocks).shape == (44100, 1)
    (child,) = decoders()
    assert os.getsid(child.pid) != os.getsid(0)  # out of reach of the terminal's Ctrl-C
    blocks.close()
    assert not decoders()


@pytest.mark.long
def test_memory_does_not_grow_with_length(encode, tmp_path):
    """20 minutes are 77 MB at 16 kHz and 230 MB as recorded."""
    measure = (
        "import resource, sys; from pathlib import Path; from avatarctl.audio.decode import write_waveform\n"
        "from avatarctl.audio.levels import loudness\n"
        "source, target = map(Path, sys.argv[1:]); total = write_waveform(source, target); loudness(source)\n"
        "print(total, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )

    def run(minutes):
        tone = f"sine=r=24000:d={60 * minutes}"
        path = encode(f"{minutes}.flac", np.zeros((1, 1)), 24000, "-map", "0:a", "-ac", "2", first_source=tone)
        command = [sys.executable, "-c", measure, str(path), str(tmp_path / "waveform")]
        total, peak_kib = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        assert int(total) == 60 * minutes * SAMPLE_RATE_HZ
        return int(peak_kib)

    assert run(20) - run(1) < 10 * 1024
