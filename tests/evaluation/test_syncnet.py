"""Tests with SyncNet of random weights under the released names: offsets, zeros, pieces and mistakes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from films import openings, photographed, voice, write_film

from avatarctl.errors import WeightsError
from avatarctl.evaluation import syncnet as measure
from avatarctl.evaluation.asked import Asked
from avatarctl.evaluation.evaluate import evaluate
from avatarctl.evaluation.table import table_of
from avatarctl.networks.syncnet import NAME, SyncNet, load_syncnet

SECONDS = 1.6  # little more than what is asked for
# Shapes in the released file, as its authors list them in SyncNetModel.py.
SHAPES = {
    "netcnnaud.0.weight": (64, 1, 3, 3),
    "netcnnaud.4.weight": (192, 64, 3, 3),
    "netcnnaud.8.weight": (384, 192, 3, 3),
    "netcnnaud.14.weight": (256, 256, 3, 3),
    "netcnnaud.18.weight": (512, 256, 5, 4),
    "netcnnlip.0.weight": (96, 3, 5, 7, 7),
    "netcnnlip.4.weight": (256, 96, 1, 5, 5),
    "netcnnlip.14.weight": (256, 256, 1, 3, 3),
    "netcnnlip.18.weight": (512, 256, 1, 6, 6),
    "netfcaud.3.weight": (1024, 512),
    "netfclip.3.weight": (1024, 512),
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with random weights under the released names."""
    folder = tmp_path_factory.mktemp("syncnet")
    torch.manual_seed(0)
    torch.save(SyncNet().state_dict(), folder / NAME)
    return folder


def test_names_and_shapes_are_the_released_ones() -> None:
    state = SyncNet().state_dict()
    assert {name: tuple(state[name].shape) for name in SHAPES} == SHAPES
    assert len([name for name in state if "num_batches" not in name]) == 12 * 6 + 2 * 8


def test_a_video_has_its_numbers_beside_those_of_another_moment(weights: Path, tmp_path: Path) -> None:
    mouth = openings(voice(SECONDS), round(25 * SECONDS))
    path = write_film(tmp_path / "talk.mkv", photographed(mouth), voice(SECONDS))
    row = evaluate(Asked(path, syncnet=weights), lambda *_, **__: None).row
    found = row["syncnet"]
    assert set(found) == set(measure.NAMES) and all(np.isfinite(value) for value in found.values())
    assert found["lse_d"] > 0 and found["lse_c"] >= 0 and found["lse_d"] != found["shifted_lse_d"]
    assert "LSE-C" in table_of([row])


def test_pictures_are_five_in_a_row_blue_first_around_the_face(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever their number: pieces of any size lose no picture and show none twice."""
    from avatarctl.evaluation.source import opened

    shown = [np.full((64, 64, 3), (200, 100, 10 + number), np.uint8) for number in range(47)]
    path = write_film(tmp_path / "flat.mkv", shown, None, crf=1)
    boxes = np.tile([32.0, 32.0, 10.0], (47, 1))
    with opened(path) as source:
        for at_once in (7, 20, 100):
            monkeypatch.setattr(measure, "AT_ONCE", at_once)
            parts = list(measure._batches(source, boxes, 42))
            assert [first for first, _ in parts] == list(range(0, 42, at_once))
            whole = torch.cat([each for _, each in parts])
            assert whole.shape == (42, 3, 5, 224, 224)
            blue, red = whole[:, 0, :, 112, 112], whole[:, 2, :, 112, 112]
            wanted = 10 + torch.arange(42)[:, None] + torch.arange(5)[None]
            assert (blue - wanted).abs().max() < 4 and (red - 200).abs().max() < 4


def test_beyond_the_edge_it_is_grey() -> None:
    chip = measure._chip(np.zeros((50, 50, 3), np.uint8), np.array([25.0, 25.0, 25.0]))
    assert tuple(chip[112, 2]) == (110, 110, 110) and tuple(chip[60, 112]) == (0, 0, 0)


@pytest.mark.parametrize("lag", [-15, -4, 0, 3, 15])
def test_an_offset_is_found_and_is_positive_when_lips_come_late(lag: int) -> None:
    torch.manual_seed(1)
    sounds = torch.randn(200, 1024)
    mouths = torch.roll(sounds, lag, 0)
    found = measure.Distances()
    for first in range(40, 160, 30):  # in pieces
        found.add(mouths[first : first + 30], sounds[first - 15 : first + 30 + 15])
    agreement = found.agreement()
    assert agreement.lag_s == pytest.approx(lag / 25) and agreement.distance < 0.01 and agreement.confidence > 40


def test_sounds_are_zero_before_the_first_and_after_the_last(weights: Path) -> None:
    network, waveform = load_syncnet(weights), voice(2)
    count = 45
    with torch.inference_mode():
        begin = measure._sounds(network, waveform, 0, 10, count, 0, "cpu")
        end = measure._sounds(network, waveform, 35, 10, count, 0, "cpu")
        moved = measure._sounds(network, waveform, 0, 10, count, 20, "cpu")
    assert begin.shape == end.shape == (40, 1024)
    assert not begin[:15].any() and begin[15:].abs().sum(1).min() > 0 and not end[25:].any() and end[:25].any()
    assert torch.allclose(begin[15 + 20], moved[15], atol=1e-5)


@pytest.mark.parametrize("what", ["none", "empty", "others", "text"])
def test_weights_that_are_none(weights: Path, tmp_path: Path, what: str) -> None:
    path = tmp_path / NAME
    if what == "empty":
        path.touch()
    elif what == "others":
        torch.save({"netcnnaud.0.weight": torch.zeros(2)}, path)
    elif what == "text":
        path.write_text("<html>not found</html>")
    with pytest.raises(WeightsError, match=NAME) as caught:
        load_syncnet(tmp_path)
    assert caught.value.hint


def test_what_cannot_be_asked_is_said(weights: Path, tmp_path: Path) -> None:
    network = load_syncnet(weights)
    from avatarctl.evaluation.source import opened
    from avatarctl.evaluation.watch import watch

    pictures = list(photographed([0.1, 0.6] * 10))
    for sound, words in ((None, "no sound"), (voice(0.8), "too few for SyncNet")):
        with opened(write_film(tmp_path / "short.mkv", pictures, sound)) as source:
            row, notes = measure.score_syncnet(source, watch(source).seats[0], network, "cpu")
        assert set(row.values()) == {None} and words in notes[0]
