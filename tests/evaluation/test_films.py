"""Videos whose truth is known, drawn and photographed, and faults made on purpose: each is told by its own measure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from films import FPS, drawn, openings, photographed, shifted, voice, write_film

from avatarctl.errors import InputFileError
from avatarctl.evaluation.asked import Asked
from avatarctl.evaluation.evaluate import Evaluated, evaluate
from avatarctl.evaluation.findings import findings
from avatarctl.evaluation.score import score
from avatarctl.evaluation.source import Source, opened
from avatarctl.evaluation.watch import Watched, watch

SECONDS = 7
FACES = {"drawn": drawn, "photographed": photographed}


def run(path: Path, **more: object) -> Evaluated:
    return evaluate(Asked(path, **more), lambda done, total, **facts: None)  # type: ignore[arg-type]


def codes(found: Evaluated) -> list[str]:
    return [each["code"] for each in found.row["findings"]]


@pytest.fixture(scope="module", params=list(FACES))
def spoken(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Source, Watched]]:
    """A face that speaks without any lag, watched once."""
    sound = voice(SECONDS)
    mouth = openings(sound, round(SECONDS * FPS))
    path = write_film(tmp_path_factory.mktemp("films") / "talk.mkv", FACES[request.param](mouth), sound)
    with opened(path) as source:
        yield source, watch(source)


def test_a_face_that_speaks_has_nothing_remarkable(spoken: tuple[Source, Watched]) -> None:
    row = score(*spoken, None, ()).row
    lips, face = row["lips"], row["face"]
    assert lips["correlation"] > 0.5 and lips["correlation"] > lips["shifted_q95"] + 0.1 > lips["shifted_mean"]
    assert abs(lips["lag_s"]) <= 0.5 / FPS
    assert lips["still_in_speech"] < 0.1 and face == {**face, "share": 1.0, "persons": 1, "most_at_once": 1}
    assert (
        row["identity"]["worst"] < 0.45
        and row["sound"]["offset_s"] == 0
        and abs(row["sound"]["length_difference_s"]) < 0.05
    )
    assert 0.9 < row["picture"]["sharpness"] < 1.1 and row["picture"]["colour"] < 2
    assert row["reference"] == "its first second" and findings(row) == []


@pytest.mark.parametrize("late_s", [-0.4, -0.2, -0.08, 0.08, 0.12, 0.2, 0.4])
def test_sound_that_is_moved_is_found_within_a_picture(spoken: tuple[Source, Watched], late_s: float) -> None:
    """Lips come as much too early as the sound comes late."""
    source, seen = spoken
    moved = replace(source, waveform=shifted(voice(SECONDS), late_s))
    row = score(moved, seen, None, ()).row
    assert abs(row["lips"]["lag_s"] + late_s) <= 1 / FPS
    expected = "lips_early" if late_s > 0.125 else "lips_late" if late_s < -0.045 else None
    assert [each["code"] for each in findings(row)] == ([expected] if expected else [])


def test_voices_of_other_moments_are_told_from_the_own_one(spoken: tuple[Source, Watched]) -> None:
    source, seen = spoken
    for seconds in (2.3, 3.7):
        other = np.roll(voice(SECONDS), round(seconds * 16_000))
        lips = score(replace(source, waveform=other), seen, None, ()).row["lips"]
        own = score(source, seen, None, ()).row["lips"]
        assert lips["correlation"] < 0.75 * own["correlation"] and lips["correlation"] < own["shifted_q95"] + 0.1


def test_frozen_lips_are_told_and_nothing_else(tmp_path: Path) -> None:
    sound = voice(5)
    for name, face in FACES.items():
        found = run(write_film(tmp_path / f"{name}.mkv", face([0.3] * 125), sound))
        assert codes(found) == ["frozen_lips"], (name, found.row)
        assert found.row["lips"]["still_in_speech"] > 0.6


def test_another_person_is_told_and_nothing_else(tmp_path: Path) -> None:
    sound, fps = voice(6), Fraction(12)
    mouth = openings(sound, 72, fps)
    pictures = chain(photographed(mouth[:36]), drawn(mouth[36:]))
    found = run(write_film(tmp_path / "two.mkv", pictures, sound, fps))
    assert codes(found) == ["other_person"], found.row
    assert found.row["face"]["persons"] == 2 and found.row["identity"]["worst"] > 0.6


@pytest.mark.long
@pytest.mark.parametrize("percent", [1, 0])
def test_colours_that_drift_are_told_and_nothing_else(tmp_path: Path, percent: int) -> None:
    """1 % a minute, over two and a half minutes; the same video without it has nothing remarkable."""
    fps, seconds = Fraction(1), 150  # a picture a second is enough
    mouth = 0.5 + 0.5 * np.sin(np.arange(int(seconds * fps)))

    def drifting() -> Iterator[np.ndarray]:
        for number, picture in enumerate(photographed(mouth)):
            gain = 1 - percent / 100 * number / float(60 * fps)
            yield np.clip(picture * gain + 0.5, 0, 255).astype(np.uint8)

    found = run(write_film(tmp_path / "drift.mkv", drifting(), None, fps))
    assert codes(found) == (["colour_drift"] if percent else []), found.row
    assert (0.4 < found.row["picture"]["colour_slope_per_minute"] < 0.9) == bool(percent)


def test_a_picture_of_the_person_or_of_another_one_is_the_reference(tmp_path: Path) -> None:
    from PIL import Image
    from scenes import photograph

    Image.fromarray(photograph()).save(tmp_path / "own.png")
    Image.fromarray(next(drawn([0.0]))).save(tmp_path / "other.png")
    Image.new("RGB", (64, 64)).save(tmp_path / "none.png")
    film = write_film(tmp_path / "talk.mkv", photographed([0.2, 0.5] * 15), None)
    own, other = (run(film, reference=tmp_path / name).row for name in ("own.png", "other.png"))
    assert own["identity"]["mean"] < 0.45 and own["reference"] == "own.png" and own["picture"]["colour"] < 3
    assert other["identity"]["mean"] > 0.6 and other["findings"][0]["code"] == "other_person"
    with pytest.raises(InputFileError, match="without a face"):
        run(film, reference=tmp_path / "none.png")
    left_out = run(film, reference=tmp_path / "none.png", optional=True)
    assert left_out.row["reference"] == "its first second" and "without a face" in left_out.row["notes"][-1]


# -- What can't be measured --------------------------------------------------------------------------------------------


def test_without_sound_or_with_silence_lips_are_not_measured_and_it_is_said(tmp_path: Path) -> None:
    fps = Fraction(10)
    pictures = list(photographed(0.4 + 0.4 * np.sin(np.arange(45))))
    mute = run(write_film(tmp_path / "mute.mkv", pictures, None, fps))
    assert (
        mute.row["lips"]["correlation"] is None
        and "no sound" in mute.row["notes"][0]
        and mute.row["sound"]["offset_s"] is None
    )
    silent = run(write_film(tmp_path / "silent.mkv", pictures, np.zeros(72_000, np.float32), fps))
    assert silent.row["lips"]["correlation"] is None and "silent" in silent.row["notes"][0]
    assert silent.row["lips"]["still_in_speech"] is None and silent.row["lips"]["moving_in_silence"] > 0.8
    compared = run(tmp_path / "mute.mkv", audio=tmp_path / "silent.mkv")
    assert (
        compared.row["sound"]["length_difference_s"] == pytest.approx(0, abs=0.05)
        and "silent" in compared.row["notes"][0]
    )


def test_no_face_is_said(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8)
    found = run(write_film(tmp_path / "noise.mkv", [noise] * 30, voice(1.2)))
    assert codes(found) == ["no_face"] and found.row["face"]["share"] == 0 and found.row["face"]["height_px"] is None
    assert found.row["identity"]["mean"] is None and found.row["picture"]["sharpness"] is None


def test_one_picture_is_no_video(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="a video of 1 picture, expected moving pictures"):
        run(write_film(tmp_path / "one.mkv", drawn([0.0]), None))


def test_too_short_for_lips_is_said(tmp_path: Path) -> None:
    found = run(write_film(tmp_path / "short.mkv", photographed([0.1, 0.6] * 25), voice(2)))
    assert found.row["lips"]["correlation"] is None and "2.0 s are too few" in found.row["notes"][0]
