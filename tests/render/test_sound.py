"""Tests through the command line: lips and video hear the same sound, and what was done to it is said."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from workshop import Case, babble, straight, write_wav

from avatarctl.audio.decode import read_blocks

sys.path.append(str(Path(__file__).parents[1] / "audio"))
from recordings import Recording, make, played, run, voice, worst_lag_s

NewCase = Callable[..., Case]


def lag_s(case: Case) -> float:
    """Return by how much the video's sound comes after what the lips heard."""
    return worst_lag_s(np.fromfile(case.render / "audio.f32", "<f4"), played(case.output))


@pytest.mark.parametrize(
    "recording",
    [
        Recording("mkv", "libopus", 48000, pictures=True, hole=(20, 60)),
        Recording("mp4", "aac", 44100, pictures=True, offset_s=0.5),
        Recording("mp3", "libmp3lame", 44100, 2, joined=True, changes=True),
    ],
    ids=["hole", "late sound", "another form midway"],
)
def test_lips_and_sound_are_in_step(case: Case, recording: Recording) -> None:
    path = make(case.folder, recording)
    straight(case, "-a", str(path), "--keep", "--crf", "30", "--duration", "1.6")
    assert abs(lag_s(case)) < 0.02
    assert len(np.fromfile(case.render / "audio.f32", "<f4")) == 25_600


def test_the_default_track_is_told_and_another_can_be_chosen(case: Case) -> None:
    path = case.folder / "both.mka"
    for place in range(2):
        write_wav(case.folder / f"{place}.wav", voice(0.5 + 0.3 * place, seed=place)[:, None], 16000)
    run("-i", case.folder / "0.wav", "-i", case.folder / "1.wav", "-map", 0, "-map", 1, "-c:a", "flac", path)
    first = case.generate("-a", str(path), "--keep")
    assert first.status == 0 and "2 sound tracks: number 1 is used" in first.log
    assert len(np.fromfile(case.render / "audio.f32", "<f4")) == 8000
    other = case.generate("-a", str(path), "--keep", "--force", "--audio-track", "2")
    assert other.status == 0 and "sound tracks" not in other.log
    assert len(np.fromfile(case.render / "audio.f32", "<f4")) == 12_800
    assert abs(lag_s(case)) < 0.02
    refused = case.generate("-a", str(path), "--force", "--audio-track", "3")
    assert refused.status == 2 and "has 2 sound tracks: 1 (flac" in refused.log


def test_opposite_channels_are_heard_and_said(case: Case) -> None:
    mono_TC = babble(0.5)
    write_wav(case.folder / "a.wav", np.concatenate([mono_TC, -0.8 * mono_TC], axis=1), 16000)
    attempt = case.generate("-a", str(case.folder / "a.wav"), "--keep")
    assert attempt.status == 0 and "opposite phase" in attempt.log
    heard_T = np.fromfile(case.render / "audio.f32", "<f4")
    assert np.corrcoef(heard_T, mono_TC[:, 0])[0, 1] > 0.999
    assert np.concatenate(list(read_blocks(case.output)[2])).shape[1] == 2


@pytest.mark.parametrize("channels", [12, 16])
def test_more_channels_than_the_video_holds_are_mixed(case: Case, channels: int) -> None:
    path = case.folder / "many.wav"
    run("-f", "f32le", "-ar", 16000, "-i", "pipe:0", "-af", f"pan={channels}c|c3=c0", path, given=voice(0.6).tobytes())
    attempt = case.generate("-a", str(path), "--keep")
    assert attempt.status == 0 and "mixed to stereo" in attempt.log
    assert abs(lag_s(case)) < 0.02
    sound_TC = np.concatenate(list(read_blocks(case.output)[2]))
    assert sound_TC.shape[1] == 2 and np.abs(sound_TC).max() > 0.2


def test_sound_beyond_full_scale_is_lowered_or_refused(case: Case) -> None:
    path = case.folder / "loud.wav"
    for scale, status, words in (
        (1.0, 0, ""),
        (32767.0, 0, "times full scale: the sound is lowered by"),
        (1e29, 4, ""),
    ):
        run(
            "-f", "f32le", "-ar", 16000, "-i", "pipe:0", "-c:a", "pcm_f32le", path,
            given=(voice(0.6) * np.float32(scale)).tobytes(),
        )  # fmt: skip
        attempt = case.generate("-a", str(path), "--force")
        assert attempt.status == status and words in attempt.log, attempt.log
        assert ("full scale" in attempt.log) == (scale > 1)
        if status == 0:
            assert np.abs(np.concatenate(list(read_blocks(case.output)[2]))).max() < 1.3
    assert not case.render.exists() or not list(case.render.glob("windows/*"))


def test_the_track_is_kept_for_the_video_alone(case: Case) -> None:
    straight(case, "--keep")
    facts = json.loads((case.render / "track.json").read_text())["track"]
    size = (case.render / "track.f32").stat().st_size
    assert size == 4 * facts["samples"] * facts["channels"] == 4 * round(0.68 * 16000)
    planned = case.generate("--dry-run", "--json", "--force")
    straight(case, "--keep", "--force", "--no-audio")
    assert not (case.render / "track.f32").exists()
    assert planned.status == 0
