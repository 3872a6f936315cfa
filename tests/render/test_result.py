"""Tests with finished videos: format, rate, number of pictures, sound and the files beside them are as asked for."""

from __future__ import annotations

import math
import signal
import subprocess
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from workshop import Case, babble, kill_when, straight, write_wav

from avatarctl.audio.decode import read_blocks
from avatarctl.audio.levels import loudness
from avatarctl.audio.source import ffmpeg
from avatarctl.networks.checkpoints import load_vae
from avatarctl.networks.vae import decode
from avatarctl.render.frames import to_pictures
from avatarctl.render.video import inspect

NewCase = Callable[..., Case]
BT709 = np.array([0.2126, 0.7152, 0.0722])


def samples_of(path: Path) -> tuple[int, np.ndarray]:
    """Return rate and samples (T, C) of a file's sound."""
    rate_hz, _, blocks = read_blocks(path)
    return rate_hz, np.concatenate(list(blocks))


@pytest.mark.parametrize(
    ("flag", "fps"), [("25", "25"), ("29.97", "30000/1001"), ("24", "24"), ("23.976", "24000/1001")]
)
def test_the_rate_is_exact_and_no_sound_is_cut(case: Case, flag: str, fps: str) -> None:
    straight(case, "--fps", flag)
    video = inspect(case.output)
    assert (video.codec, video.pixel_format, video.width, video.height) == ("h264", "yuv420p", 64, 64)
    assert video.fps == Fraction(fps)
    assert video.pictures == math.ceil(Fraction("0.68") * Fraction(fps))
    assert abs(video.picture_s - video.audio_s) <= 1 / Fraction(fps)
    assert video.audio_s >= 0.68


@pytest.mark.parametrize(("channels", "rate_hz", "said"), [(1, 48000, "mono"), (2, 44100, "stereo"), (6, 48000, "5.1")])
def test_the_sound_keeps_channels_and_rate(case: Case, channels: int, rate_hz: int, said: str) -> None:
    # A tone of its own in each channel; the low one is the fourth, which 5.1 has for that.
    tones_hz = np.array([300, 500, 700, 80, 1100, 1300])[:channels]
    sound_TC = 0.2 * np.sin(2 * np.pi * np.arange(round(0.7 * rate_hz))[:, None] * tones_hz / rate_hz)
    voice = write_wav(case.folder / "voice.wav", sound_TC, rate_hz)
    straight(case, "-a", str(voice), "--crf", "30")
    video = inspect(case.output)
    assert (video.audio_codec, video.audio_channels, video.audio_rate_hz) == ("aac", said, rate_hz)
    assert video.pictures == 18 and abs(video.audio_s - video.picture_s) <= 1 / 25
    rate, heard_TC = samples_of(case.output)
    heard_TC = heard_TC[: len(sound_TC)]
    assert rate == rate_hz and heard_TC.shape == sound_TC.shape
    close = [np.corrcoef(heard_TC[:, channel], sound_TC[:, channel])[0, 1] for channel in range(channels)]
    assert min(close) > 0.95, close


@pytest.mark.parametrize("kind", ["wav", "m4a", "mp3", "flac"])
def test_start_and_duration_are_kept_to_the_sample(case: Case, kind: str) -> None:
    rate_hz, start_s, duration_s = 44100, 0.313, 0.61
    sound_TC = np.zeros((2 * rate_hz, 1))
    within, after = round((start_s + 0.25) * rate_hz), round((start_s + duration_s + 0.001) * rate_hz)
    sound_TC[[within, after], 0] = 0.9
    voice = write_wav(case.folder / "voice.wav", sound_TC, rate_hz)
    if kind != "wav":
        other = voice.with_suffix(f".{kind}")
        subprocess.run([ffmpeg(), "-v", "error", "-i", voice, "-b:a", "256k", other], check=True)
        voice = other
    straight(case, "-a", str(voice), "--start", str(start_s), "--duration", str(duration_s))
    video = inspect(case.output)
    assert video.pictures == math.ceil(duration_s * 25) and abs(video.audio_s - video.picture_s) <= 1 / 25
    _, heard_TC = samples_of(case.output)
    peak = int(np.abs(heard_TC[:, 0]).argmax())
    assert abs(peak - round(0.25 * rate_hz)) <= 2
    if kind in ("wav", "flac"):  # other encoders smear the later click into what is kept
        # From the end of the duration to the end of the last picture there is silence: the click there is not heard.
        assert np.abs(heard_TC[round((duration_s - 0.1) * rate_hz) :]).max() < 0.01


def test_without_sound(case: Case) -> None:
    straight(case, "--no-audio")
    video = inspect(case.output)
    assert video.audio_codec is None and video.pictures == 17


def test_hevc(case: Case) -> None:
    straight(case, "--codec", "hevc")
    video = inspect(case.output)
    assert (video.codec, video.pixel_format, video.fps, video.pictures) == ("hevc", "yuv420p", 25, 17)
    assert b"hvc1" in case.bytes()


@pytest.mark.parametrize(("seconds", "pictures"), [(0.2, 5), (0.01, 1), (0.3601, 10)])
def test_recordings_shorter_than_a_window_or_just_longer(case: Case, seconds: float, pictures: int) -> None:
    voice = write_wav(case.folder / "voice.wav", babble(seconds), 16000)
    straight(case, "-a", str(voice))
    video = inspect(case.output)
    assert video.pictures == pictures and video.fps == 25
    assert abs(video.audio_s - video.picture_s) <= 1 / 25


def test_loudness_and_trimmed_silence(case: Case) -> None:
    rate_hz = 16000
    silence_TC = np.zeros((rate_hz // 2, 1))
    sound_TC = np.concatenate([silence_TC, babble(0.8) * 0.2, silence_TC])
    voice = write_wav(case.folder / "voice.wav", sound_TC, rate_hz)
    straight(case, "-a", str(voice), "--trim-silence", "--loudness", "-24")
    video = inspect(case.output)
    assert 0.76 <= video.picture_s < 1.1
    assert loudness(case.output).dbfs == pytest.approx(-24, abs=1)
    _, heard_TC = samples_of(case.output)
    assert np.abs(heard_TC[: rate_hz // 5]).max() > 0.01, "it begins with sound"


def test_a_level_out_of_reach_is_said(case: Case) -> None:
    attempt = case.generate("--loudness", "0")
    assert attempt.status == 0 and "as loud as it gets" in attempt.log


def test_the_contact_sheet_lies_beside_the_video(case: Case) -> None:
    straight(case, "--contact-sheet", "0.2")
    with Image.open(case.output.with_suffix(".jpg")) as sheet:
        assert sheet.format == "JPEG"
        assert sheet.size == (2 * 160, 2 * 160)  # 0, 0.2, 0.4 and 0.6 s
    assert sorted(path.name for path in case.folder.iterdir()) == ["attempt.log", "talk.jpg", "talk.mp4"]


def test_the_preview_plays_while_the_rest_is_rendered(new_case: NewCase) -> None:
    case = new_case(audio="long.wav")
    assert case.generate(meanwhile=kill_when(case, "preview.mp4")).status == -signal.SIGKILL
    video = inspect(case.render / "preview.mp4")
    assert video.pictures >= 5 and video.fps == 25 and video.audio_codec is None


@pytest.mark.parametrize("stopped", [False, True])
def test_frames_are_the_pictures_before_encoding(case: Case, stopped: bool) -> None:
    png = case.folder / "png"
    flags = ("--frames", str(png), "--keep", "--crf", "1")
    if stopped:
        case.stop(*flags, steps=5)
    straight(case, *flags)
    names = sorted(path.name for path in png.iterdir())
    assert names == [f"frame_{number:07d}.png" for number in range(17)]
    stored = np.stack([np.asarray(Image.open(png / name)) for name in names])
    # Streaming over segments, stopped or not, gives what decoding everything in one go gives.
    vae = load_vae(case.studio / "weights" / "vae.safetensors", dtype=torch.float32, device=torch.device("cpu"))
    windows = [load_file(path)["latents"] for path in sorted(case.render.glob("windows/*.safetensors"))]
    with torch.no_grad():
        whole = to_pictures(decode(vae, torch.cat(windows, dim=2)))
    assert np.array_equal(stored, whole[:17])
    # And the video shows them, in this order.
    raw = [ffmpeg(), "-v", "error", "-i", case.output, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    shown = np.frombuffer(subprocess.run(raw, check=True, stdout=subprocess.PIPE).stdout, np.uint8)
    luma = [pictures @ BT709 for pictures in (shown.reshape(stored.shape), stored)]
    distances = np.abs(luma[0][:, None] - luma[1][None]).mean(axis=(2, 3))
    assert distances.argmin(axis=1).tolist() == list(range(17))
    assert distances.diagonal().max() < 6, distances.diagonal()


def test_frames_asked_for_later_are_written_when_a_render_goes_on(case: Case) -> None:
    png = case.folder / "png"
    case.stop(steps=5)
    straight(case, "--frames", str(png))
    assert len(list(png.iterdir())) == 17
