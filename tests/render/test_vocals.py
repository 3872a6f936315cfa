"""Tests with a song and a separator: lips follow the voice alone while the video sounds as before, killed or not."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from separators import write_separator
from workshop import Case, write_wav

RATE_HZ = 44100


@pytest.fixture
def song(case: Case) -> Case:
    """A case whose recording is a low voice under high music, with the separator beside its other weights."""
    time_s = np.arange(round(0.68 * RATE_HZ)) / RATE_HZ
    voice_T, music_T = 0.3 * np.sin(1500 * time_s), 0.3 * np.sin(40000 * time_s)
    case.audio = str(write_wav(case.folder / "song.wav", np.stack([voice_T + music_T] * 2, 1), RATE_HZ))
    write_wav(case.folder / "voice.wav", voice_T[:, None], RATE_HZ)
    return case


@pytest.fixture
def weights(song: Case) -> Path:
    folder = song.folder / "weights"
    shutil.copytree(song.studio / "weights", folder)
    write_separator(folder / "Kim_Vocal_2.onnx", keep_below=300)
    return folder


def heard(case: Case) -> np.ndarray:
    return np.fromfile(case.render / "audio.f32", "<f4")


def test_lips_follow_the_voice_and_the_sound_stays(song: Case, weights: Path) -> None:
    plain = song.generate("--keep", "--frames", "plain")
    assert plain.status == 0, plain.log
    mixed = heard(song)
    asked = ["--weights", str(weights), "--keep", "--frames", "alone", "--separate-vocals", "--force"]
    done = song.generate(*asked)
    assert done.status == 0, done.log
    assert "taking the voice out of the music" in done.log
    alone = heard(song)
    song.audio = str(song.folder / "voice.wav")
    assert song.generate("--keep", "--force").status == 0
    voice = heard(song)
    assert len(mixed) == len(alone) == len(voice)
    inner = slice(2000, -2000)
    assert np.abs(alone[inner] - 1.009 * voice[inner]).max() < 0.01
    assert np.abs(mixed[inner] - voice[inner]).max() > 0.1
    pictures = [[path.read_bytes() for path in sorted((song.folder / name).iterdir())] for name in ("plain", "alone")]
    assert pictures[0] != pictures[1]


def test_it_goes_on_with_the_same_separator_alone(song: Case, weights: Path) -> None:
    asked = ["--weights", str(weights), "--separate-vocals"]
    assert song.generate(*asked).status == 0
    straight = song.bytes()
    song.output.unlink()
    song.stop(*asked)
    write_separator(weights / "Kim_Vocal_2.onnx", keep_below=200)
    other = song.generate(*asked)
    assert other.status == 7
    assert "vocal separator" in other.log
    write_separator(weights / "Kim_Vocal_2.onnx", keep_below=300)
    done = song.generate(*asked)
    assert done.status == 0, done.log
    assert song.bytes() == straight


def test_without_the_separator_nothing_begins(song: Case) -> None:
    refused = song.generate("--separate-vocals")
    assert refused.status == 5
    assert "got no Kim_Vocal_2.onnx" in refused.log
    assert "avatarctl fetch vocal-separator" in refused.log
    assert not song.render.exists()


def test_a_damaged_separator_leaves_no_folder(song: Case, weights: Path) -> None:
    (weights / "Kim_Vocal_2.onnx").write_bytes(b"torn")
    refused = song.generate("--weights", str(weights), "--separate-vocals")
    assert refused.status == 5, refused.log
    assert "no whole ONNX network" in refused.log
    assert not song.render.exists()
