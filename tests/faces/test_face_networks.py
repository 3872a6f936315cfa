"""Tests with a photograph whose faces are known: boxes, points, presence and identity agree with the reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scenes import photograph

from avatarctl.faces.detect import detect
from avatarctl.faces.find import find_faces
from avatarctl.faces.identity import SAME_PERSON, distance, identity_of
from avatarctl.faces.landmarks import landmarks_of, landmarks_of_many, opening, yaw_degrees

REFERENCE = json.loads(Path(__file__).with_name("astronaut.json").read_text())


def variant(name: str) -> np.ndarray:
    whole = photograph("astronaut.png")
    match name:
        case "mirrored":
            return whole[:, ::-1].copy()
        case "half size, bicubic":
            return np.array(Image.fromarray(whole).resize((256, 256), Image.Resampling.BICUBIC))
        case "lower half: no face":
            return whole[300:]
        case "two side by side, the right one mirrored":
            return np.concatenate([whole, whole[:, ::-1]], axis=1)
    return whole


GPU = pytest.param(
    "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
)


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("name", REFERENCE)
def test_boxes_points_presence_and_identity(name: str, device: str) -> None:
    picture, wanted = variant(name), REFERENCE[name]["faces"]
    faces = detect(picture, device)
    assert len(faces) == len(wanted)
    for face, reference in zip(faces, wanted):
        check(picture, face, reference, device)


def test_convolutions_compute_in_float32_wherever_they_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """TF32, which torch takes on a GPU, has 10 bits: results there would differ."""
    seen, convolve = [], torch.nn.functional.conv2d

    def watched(*arguments: Any, **named: Any) -> torch.Tensor:
        seen.append(torch.backends.cudnn.allow_tf32)
        return convolve(*arguments, **named)

    before = torch.backends.cudnn.allow_tf32
    monkeypatch.setattr(torch.nn.functional, "conv2d", watched)
    picture = photograph("astronaut.png")
    identity_of(picture, landmarks_of(picture, detect(picture)[0]).points_N2)
    assert len(seen) > 60 and not any(seen) and torch.backends.cudnn.allow_tf32 == before


def check(picture: np.ndarray, face: Any, reference: dict[str, Any], device: str) -> None:
    assert abs(face.score - reference["score"]) < 0.001
    assert np.abs(face.box - reference["box_xyxy"]).max() < 0.5
    assert np.abs(face.points_62 - reference["keypoints"]).max() < 0.5
    marks = landmarks_of(picture, face, device)
    assert np.abs(marks.points_N2 - reference["points_xy"]).max() < 0.3
    assert abs(marks.presence - reference["flag"]) < 0.01
    assert abs(opening(marks.points_N2) - reference["opening"]) < 0.005
    numbers = identity_of(picture, marks.points_N2, device)
    assert distance(numbers, np.array(reference["identity"], np.float32)) < 0.01


@pytest.mark.parametrize("name", ["coffee.png", "chelsea.png", "logo.png", "rocket.jpg", "page.png"])
def test_what_is_no_face_is_none(name: str) -> None:
    assert find_faces(photograph(name)) == []


def test_a_face_followed_by_its_points_stays_in_place() -> None:
    picture = photograph("astronaut.png")
    first = landmarks_of(picture, detect(picture)[0])
    again, same = landmarks_of_many([(picture, first), (picture, first)])
    assert np.array_equal(again.points_N3, same.points_N3)
    assert np.abs(again.points_N2 - first.points_N2).max() < 3 and again.presence > 0.99


def test_a_small_face_in_a_large_picture_is_found() -> None:
    room = np.full((2400, 3200, 3), 120, np.uint8)
    room[300:500, 2500:2700] = np.array(
        Image.fromarray(photograph("astronaut.png")[20:220, 120:320]).resize((200, 200))
    )
    [face] = find_faces(room)
    assert 2500 < face.box[0] < face.box[2] < 2700 and 300 < face.box[1] < face.box[3] < 500


def test_identity_tells_persons_apart_and_knows_the_same_one() -> None:
    picture = photograph("astronaut.png")
    mirrored, small = variant("mirrored"), variant("half size, bicubic")
    numbers = [identity_of(each, find_faces(each)[0].points_N2) for each in (picture, mirrored, small)]
    assert max(distance(numbers[0], other) for other in numbers[1:]) < SAME_PERSON


def test_a_turned_head_has_a_turned_face() -> None:
    picture = photograph("astronaut.png")
    yaw = yaw_degrees(find_faces(picture)[0].points_N3)
    mirrored = yaw_degrees(find_faces(variant("mirrored"))[0].points_N3)
    assert abs(yaw + mirrored) < 5 and abs(yaw) < 20
    rolled = np.array(Image.fromarray(picture).rotate(25, Image.Resampling.BICUBIC))
    assert abs(yaw_degrees(find_faces(rolled)[0].points_N3) - yaw) < 6
