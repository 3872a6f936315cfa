"""Tests with seeds: faces and voices depend on them alone and the mouth is measured as it was drawn."""

from __future__ import annotations

import itertools
import shutil
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from avatarctl.data.discover import discover
from avatarctl.errors import UsageError
from avatarctl.puppet import voice
from avatarctl.puppet.dataset import FPS, FRAMES, make_dataset, poses, write_clip
from avatarctl.puppet.draw import LIP_LUMA, SIZE, Identity, Pose, draw, luma
from avatarctl.puppet.folders import TRUTH
from avatarctl.puppet.mouth import RATE_HZ, mouth_from_audio, mouth_from_frames

needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs espeak-ng")


def quiet(*_: Any, **__: Any) -> None:
    """Show nothing."""


def tone(seconds: float, hz: float, level: float = 0.5) -> np.ndarray:
    return (level * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE_HZ)) / RATE_HZ)).astype(np.float32)


# -- Faces ------------------------------------------------------------------------------------------------------------


def test_a_face_depends_on_its_seed_alone() -> None:
    pose = Pose(opening=0.5)
    assert np.array_equal(draw(Identity.of(3), pose), draw(Identity.of(3), pose))
    faces = [draw(Identity.of(seed), pose).astype(float) for seed in range(12)]
    distances = [np.abs(a - b).mean() for i, a in enumerate(faces) for b in faces[:i]]
    assert min(distances) > 4


def test_lips_of_all_are_equally_bright() -> None:
    assert all(abs(luma(Identity.of(seed).lips) - LIP_LUMA) < 1.5 for seed in range(200))


def test_a_look_is_seen() -> None:
    plain, dressed = (draw(Identity.of(5, look), Pose()).astype(float) for look in ((), ("hat", "glasses")))
    assert np.abs(plain - dressed).mean() > 8


@pytest.mark.parametrize("size", [64, 96, 128])
def test_the_mouth_is_measured_as_it_was_drawn(size: int) -> None:
    chance = np.random.default_rng(0)
    errors = []
    for seed in range(40):
        who = Identity.of(seed + 500, ("hat", "glasses") if seed % 5 == 0 else ())
        openings, widths = np.array([0, 1, 0.5, *chance.random(6)]), np.array([1, 0, 0.5, *chance.random(6)])
        sways = chance.uniform(-0.012, 0.012, (len(openings), 2))
        faces = [draw(who, Pose(o, w, 0, *sway), size) for o, w, sway in zip(openings, widths, sways, strict=True)]
        opening, width = mouth_from_frames(np.stack(faces))
        errors.append([np.abs(opening - openings), np.abs(width - widths)])
    worst = np.array(errors).max(axis=(0, 2))
    assert worst[0] <= 0.05 and worst[1] <= 0.05


# -- The mouth's drive --------------------------------------------------------------------------------------------------


def test_silence_shuts_the_mouth_and_a_voice_opens_it() -> None:
    hum = tone(1.5, 220)
    sound = np.concatenate([np.zeros(RATE_HZ, np.float32), hum, np.zeros(RATE_HZ, np.float32)])
    opening, width = mouth_from_audio(sound, 87)
    assert opening[:15].max() < 0.1 and opening[-15:].max() < 0.1
    assert opening[32:55].min() > 0.6
    assert np.all((width >= 0) & (width <= 1))
    silent, at_rest = mouth_from_audio(np.zeros(RATE_HZ, np.float32), 25)
    assert np.all(silent == 0) and np.allclose(at_rest, 0.5, atol=1e-3)


def test_loudness_of_the_recording_does_not_matter() -> None:
    chance = np.random.default_rng(0)
    sound = (tone(3.0, 200) * np.repeat(chance.random(30), RATE_HZ // 10)).astype(np.float32)
    loud, soft = (mouth_from_audio(sound * level, 75) for level in (1.0, 0.05))
    assert np.allclose(loud[0], soft[0], atol=0.02)


def test_bright_vowels_are_wide() -> None:
    dark, bright = (mouth_from_audio(tone(2, 200) + tone(2, hz, 0.4), 50)[1] for hz in (400, 2200))
    assert bright[25] > dark[25] + 0.3


def test_frames_follow_their_rate() -> None:
    sound = np.concatenate([np.zeros(RATE_HZ, np.float32), tone(1, 220)])
    for fps in (20, 25, 30):
        opening, _ = mouth_from_audio(sound, 2 * fps, FPS * fps / 25)
        assert len(opening) == 2 * fps
        assert np.argmax(opening > 0.4) == pytest.approx(fps, abs=4)


# -- Voices and clips -------------------------------------------------------------------------------------------------------


@needs_espeak
def test_voices_depend_on_their_seed_and_have_the_length_asked_for() -> None:
    for kind in ("speech", "singing"):
        first, again, other = (voice.make_voice(seed, 2.0, kind) for seed in (1, 1, 2))
        assert len(first) == 2 * RATE_HZ
        assert np.array_equal(first, again) and not np.array_equal(first, other)
        assert 0.05 < np.abs(first).max() <= 1


def test_no_language_is_trained_and_evaluated() -> None:
    assert not set(voice.TRAINING) & set(voice.EVALUATION)


def test_without_espeak_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError, match="espeak-ng: not found") as caught:
        voice.say("hello")
    assert "apt-get install espeak-ng" in caught.value.hint


@needs_espeak
def test_a_voice_that_is_none_is_said() -> None:
    with pytest.raises(UsageError, match="voice klingon-of-the-moon"):
        voice.say("hello", "klingon-of-the-moon")


@needs_espeak
def test_clips_are_made_once_and_show_what_they_sound(tmp_path: Path) -> None:
    assert make_dataset(tmp_path, 3, 0, quiet) == 3
    assert make_dataset(tmp_path, 4, 0, quiet) == 1
    folders = sorted(tmp_path.glob("square/*/*"))
    assert len(folders) == 4
    for folder in folders:
        truth = np.load(folder / TRUTH)
        frames = np.stack([np.asarray(Image.open(folder / "images" / f"frame_{i}.png")) for i in range(FRAMES)])
        opening, _ = mouth_from_frames(frames)
        assert np.abs(opening - truth["opening"]).max() < 0.05
        mask = np.asarray(Image.open(folder / "lip_masks" / "frame_0.png"))
        assert mask.shape == (SIZE, SIZE) and 0.03 < (mask > 0).mean() < 0.3
    assert len(discover(tmp_path)) == 4


def test_a_clip_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", broken)
    with pytest.raises(KeyboardInterrupt):
        write_clip(tmp_path / "00000", Identity.of(0), tone(float(FRAMES / FPS), 200), 0)
    assert not (tmp_path / "00000").exists()
    monkeypatch.undo()
    write_clip(tmp_path / "00000", Identity.of(0), tone(float(FRAMES / FPS), 200), 0)
    with wave.open(str(tmp_path / "00000" / "audio.wav")) as file:
        assert file.getnframes() == round(FRAMES / FPS * RATE_HZ)


def test_heads_sway_by_less_than_a_pixel_and_eyes_blink() -> None:
    for seed in range(10):
        made = poses(np.zeros(300), np.zeros(300), seed)
        assert max(abs(pose.sway_x) for pose in made) * SIZE < 1
        assert 1 <= sum(a.blink < 0.5 <= b.blink for a, b in itertools.pairwise(made)) <= 7
