"""The drawn world of 128 pixels: faces and voices depend on seeds alone, lips close where phonemes say so, eyes blink."""

from __future__ import annotations

import itertools
import shutil
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from avatarctl.audio.speak import RATE_HZ, Phoneme
from avatarctl.data.discover import discover
from avatarctl.puppet.folders import TRUTH
from avatarctl.puppet.voice import make_pause
from avatarctl.puppet.world.clips import FRAMES, Scene, curves, make_clips, region_mask, write_clip
from avatarctl.puppet.world.drive import FPS, closures, drive
from avatarctl.puppet.world.identity import IRISES, Identity, Pose
from avatarctl.puppet.world.life import blinks, poses
from avatarctl.puppet.world.portrait import SIZE, Portrait, draw
from avatarctl.puppet.world.shapes import Canvas, rgb
from avatarctl.puppet.world.voice import Voice, make_voice

needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs espeak-ng")


def quiet(*_: Any, **__: Any) -> None:
    """Show nothing."""


def hum(seconds: float, level: float = 0.5) -> np.ndarray:
    return (level * np.sin(2 * np.pi * 220 * np.arange(round(seconds * RATE_HZ)) / RATE_HZ)).astype(np.float32)


# -- Shapes -----------------------------------------------------------------------------------------------------------


def test_a_pixel_is_covered_by_as_much_as_the_shape_fills_of_it() -> None:
    canvas = Canvas.of(64, 1.0, (0.5, 0.5))
    for radius in (0.1, 0.23, 0.31):
        covered = canvas.edge(canvas.oval(0.5, 0.5, radius, radius)).sum() / 64**2
        assert covered == pytest.approx(np.pi * radius**2, rel=4e-3)
    covered = canvas.edge(canvas.box(0.5, 0.5, 0.2, 0.1)).sum() / 64**2
    assert covered == pytest.approx(0.4 * 0.2, rel=1e-2)


def test_a_part_paints_what_the_whole_would() -> None:
    whole, parts = Canvas.of(48, 0.9, (0.5, 0.51)), Canvas.of(48, 0.9, (0.5, 0.51))
    whole.paint(whole.edge(whole.oval(0.3, 0.4, 0.1, 0.05)), rgb(200, 100, 50))
    part = parts.turned(0.03, (0.5, 0.9)).part(0.2, 0.35, 0.4, 0.45)
    assert part.pixels.size < parts.pixels.size / 4
    part = parts.part(0.2, 0.35, 0.4, 0.45)
    part.paint(part.edge(part.oval(0.3, 0.4, 0.1, 0.05)), rgb(200, 100, 50))
    assert np.array_equal(whole.pixels, parts.pixels)


def test_a_layer_lies_over_pixels_as_if_painted_there() -> None:
    direct, layered, layer = (Canvas.of(32, 1, (0.5, 0.5), channels) for channels in (3, 3, 4))
    for canvas in (direct, layered):
        canvas.pixels[:] = rgb(10, 200, 90)
    for canvas in (direct, layer):
        canvas.paint(0.7 * canvas.edge(canvas.oval(0.4, 0.5, 0.3, 0.2)), rgb(250, 40, 0))
        canvas.paint(canvas.soft(canvas.oval(0.6, 0.5, 0.2, 0.2), 0.1), rgb(0, 0, 255))
    layered.put(layer)
    assert np.abs(direct.pixels - layered.pixels).max() < 1e-2


# -- Faces ------------------------------------------------------------------------------------------------------------


def test_a_face_depends_on_its_seed_alone() -> None:
    pose = Pose(opening=0.5, roll=0.01)
    assert np.array_equal(draw(Identity.of(3), pose), draw(Identity.of(3), pose))
    faces = [draw(Identity.of(seed), pose).astype(float) for seed in range(12)]
    distances = [np.abs(a - b).mean() for a, b in itertools.combinations(faces, 2)]
    assert min(distances) > 8


def test_a_portrait_draws_every_pose_as_if_it_were_its_first() -> None:
    portrait = Portrait.of(Identity.of(5), 64)
    first = portrait.picture(Pose())
    other = portrait.picture(Pose(opening=1, x=0.01, roll=0.02))
    assert np.array_equal(portrait.picture(Pose()), first) and not np.array_equal(first, other)


def test_what_moves_lies_in_the_regions_that_count_more() -> None:
    regions = region_mask(SIZE, [*_regions()]) > 0
    assert 0.05 < regions.mean() < 0.25
    for seed in range(6):
        portrait = Portrait.of(Identity.of(seed))
        rest = portrait.picture(Pose()).astype(int)
        for pose in (Pose(blink=1), Pose(press=1), Pose(opening=0.9, width=0.9), Pose(width=0)):
            moved = np.abs(portrait.picture(pose) - rest).max(2) > 24
            assert (moved & regions).sum() >= 0.88 * moved.sum(), (seed, pose)  # the rest is the jaw's edge


def test_skin_stays_skin() -> None:
    for seed in range(300):
        red, green, blue = Identity.of(seed).skin
        assert red > green > blue and green - blue < 1.6 * (red - green), seed  # not yellow


def test_irises_are_easy_to_tell_apart() -> None:
    assert min(np.abs(np.subtract(a, b)).max() for a, b in itertools.combinations(IRISES, 2)) >= 24


def test_a_look_is_seen() -> None:
    plain, dressed = (draw(Identity.of(5, look), Pose()).astype(float) for look in ((), ("bowler", "glasses")))
    assert np.abs(plain - dressed).mean() > 8


def _regions() -> Sequence[tuple[float, float, float, float]]:
    from avatarctl.puppet.world.clips import EYE_REGIONS, MOUTH_REGION

    return [MOUTH_REGION, *EYE_REGIONS]


# -- The mouth's drive --------------------------------------------------------------------------------------------------


def test_lips_are_shut_at_m_b_p_and_nearly_at_f_v() -> None:
    sound = hum(2.0)
    phonemes = [
        Phoneme(0.40, 0.50, "m"),
        Phoneme(0.80, 0.86, "b"),
        Phoneme(1.20, 1.40, "p"),  # the hold lies before the burst: at its beginning
        Phoneme(1.60, 1.70, "v"),
    ]
    made = drive(sound, phonemes, 50)
    assert closures(phonemes, 50) == [11, 20, 30]
    for frame in (11, 20, 30):
        assert made.opening[frame] < 0.02 and made.press[frame] > 0.95
        assert np.sum(made.opening[frame - 2 : frame + 3] < 0.15) >= 2  # shut for 80 ms, as lips are
        assert max(made.opening[frame - 4], made.opening[frame + 4]) > 0.4
    assert 0.1 < made.opening[41] < 0.45 and made.press[41] == 0
    assert made.opening[35] > 0.4 and made.press[35] == 0


def test_width_follows_the_vowel_and_a_diphthong_moves() -> None:
    phonemes = [Phoneme(0.2, 0.5, "i:"), Phoneme(0.6, 0.9, "u:"), Phoneme(1.0, 1.4, "aU")]
    width = drive(hum(1.6), phonemes, 40).width
    assert width[8] > 0.8 and width[18] < 0.25
    assert width[26] > width[33] + 0.3
    assert drive(np.zeros(RATE_HZ, np.float32), phonemes, 25).width == pytest.approx(0.5)


def test_silence_is_a_shut_mouth_that_is_not_pressed() -> None:
    made = drive(make_pause(1, 2.0) * 0, [], 50)
    assert made.opening.max() == 0 and made.press.max() == 0


# -- Life -------------------------------------------------------------------------------------------------------------------


def test_blinks_last_six_or_seven_pictures_and_shut_the_eyes() -> None:
    minutes, found = 0.0, 0
    for seed in range(40):
        chance = np.random.default_rng(seed)
        ends = list(chance.uniform(0, 750, 12))
        shut = blinks(750, ends, chance)
        minutes += 750 / 25 / 60
        inside = np.flatnonzero(shut > 0)
        runs = np.split(inside, np.flatnonzero(np.diff(inside) > 1) + 1)
        whole = [run for run in runs if run[0] > 0 and run[-1] < 749]
        assert all(len(run) in (6, 7) for run in whole)
        assert all(shut[run].max() >= 0.8 for run in whole)
        assert shut[:3].max() == 0
        found += len(runs)
    assert 14 < found / minutes < 26


def test_a_clip_begins_at_rest_and_moves_with_the_sound() -> None:
    sound = np.concatenate([hum(1.0), np.zeros(RATE_HZ, np.float32), hum(1.4)])
    for lead in (0, 25):
        heard = drive(sound, [], 81)
        made = poses(heard, [1.0], 3, lead)
        assert len(made) == 81 - lead and made[0] == Pose()
    made = curves(poses(drive(sound, [], 81), [1.0], 3))
    assert np.corrcoef(made["nod"][12:], heard.opening[12:])[0, 1] > 0.5
    assert np.abs(made["x"]).max() * SIZE / 0.9 < 1.5 and np.abs(made["roll"]).max() < 0.03
    again = curves(poses(drive(sound, [], 81), [1.0], 3))
    assert all(np.array_equal(made[name], again[name]) for name in made)


# -- Voices and clips ---------------------------------------------------------------------------------------------------------


@needs_espeak
def test_voices_depend_on_their_seed_alone_and_know_their_phonemes() -> None:
    first, again, other = (make_voice(seed, 3.0) for seed in (1, 1, 2))
    assert len(first.samples) == 3 * RATE_HZ
    assert np.array_equal(first.samples, again.samples) and first.phonemes == again.phonemes
    assert not np.array_equal(first.samples, other.samples)
    assert all(0 <= each.start_s < 3.0 for each in first.phonemes) and first.ends_s[0] > 0.3
    sung = make_voice(1, 3.0, "singing")
    assert len(sung.phonemes) >= 3 and {each.name for each in sung.phonemes} <= set("aeiou")


@needs_espeak
def test_lips_close_between_the_vowels_of_real_speech() -> None:
    found = total = 0
    for seed in range(6):
        voice = make_voice(seed, 4.0)
        made = drive(voice.samples, voice.phonemes, 100)
        for frame in closures(voice.phonemes, 100):
            total += 1
            found += made.opening[max(frame - 1, 0) : frame + 2].min() < 0.1
    assert total >= 12 and found == total


@needs_espeak
def test_half_of_the_clips_begin_amid_speech() -> None:
    openings = [curves(Scene.of(seed, "speech").poses)["opening"] for seed in range(24)]
    assert all(opening[0] == 0 for opening in openings)
    assert 5 <= sum(opening[1] > 0.25 for opening in openings) <= 16


@needs_espeak
def test_clips_are_made_once_and_hold_their_truth(tmp_path: Path) -> None:
    assert make_clips(tmp_path, 1, 0, quiet, size=32) == 1
    assert make_clips(tmp_path, 2, 0, quiet, size=32) == 1
    folders = sorted(tmp_path.glob("square/*/*"))
    assert len(folders) == 2 and len(discover(tmp_path)) == 2
    truth = np.load(folders[0] / TRUTH)
    assert all(len(truth[name]) == FRAMES for name in ("opening", "width", "press", "blink", "nod"))
    frames = [np.asarray(Image.open(folders[0] / "images" / f"frame_{i}.png")) for i in range(FRAMES)]
    who = Identity.of(int(folders[0].name))
    index = int(truth["opening"].argmax())
    pose = Pose(**{name: float(truth[name][index]) for name in truth.files if name != "closures"})
    assert np.array_equal(frames[index], draw(who, pose, 32))


@needs_espeak
def test_nobody_speaks_in_a_pause(tmp_path: Path) -> None:
    scene = Scene.of(4, "speech", pause=True)
    assert len(scene.poses) == FRAMES and len(scene.waveform) == round(FRAMES / FPS * RATE_HZ)
    assert np.sqrt((scene.waveform**2).mean()) < 0.01
    assert curves(scene.poses)["opening"].max() < 0.05


def test_a_clip_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene.spoken(Voice(hum(float(FRAMES / FPS))), FRAMES, 0)

    def broken(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", broken)
    with pytest.raises(KeyboardInterrupt):
        write_clip(tmp_path / "00000", Identity.of(0), scene, 16)
    assert not (tmp_path / "00000").exists()
    monkeypatch.undo()
    write_clip(tmp_path / "00000", Identity.of(0), scene, 16, first=Identity.of(0, ("bowler",)))
    first, second = (
        np.asarray(Image.open(tmp_path / "00000" / "images" / f"frame_{i}.png")).astype(int) for i in (0, 1)
    )
    assert np.abs(first - second)[:5].mean() > 10  # the first picture wears another look
    with wave.open(str(tmp_path / "00000" / "audio.wav")) as file:
        assert file.getnframes() == round(FRAMES / FPS * RATE_HZ)
