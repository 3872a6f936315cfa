"""Tests with faces in every part of a picture: the crop keeps the head, and what is wrong with a picture is said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scenes import scene

from avatarctl.faces.find import find_faces
from avatarctl.faces.framing import Crop, crop_around, problems
from avatarctl.faces.landmarks import EYES

SIZES = [(512, 512), (480, 832), (832, 480)]


PLACES = {
    "high": (800, 1400, 200, 0),
    "low": (800, 1400, 200, 900),
    "left": (1600, 700, 0, 150),
    "right": (1600, 700, 1180, 150),
    "middle": (900, 900, 250, 250),
}


@pytest.mark.parametrize("video", SIZES, ids=str)
@pytest.mark.parametrize("place", PLACES)
def test_the_head_is_in_the_crop_with_the_eyes_at_their_line(place: str, video: tuple[int, int]) -> None:
    width, height, x, y = PLACES[place]
    [face] = find_faces(scene(width, height, x, y))
    crop = crop_around((width, height), face, video)
    left, top, right, bottom = crop.box()
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    assert abs((right - left) / (bottom - top) - video[0] / video[1]) < 0.01
    assert left == 0 or top == 0 or right == width or bottom == height, "the largest crop"
    head = np.clip(face.head, 0, [width, height, width, height])
    fits = head[2] - head[0] <= crop.width and head[3] - head[1] <= crop.height
    assert not fits or (head[0] >= left - 1 and head[2] <= right + 1 and head[1] >= top - 1 and head[3] <= bottom + 1)
    if 0 < top < height - crop.height:
        line = (face.points_N2[list(EYES), 1].mean() - top) / crop.height
        assert 0.3 <= line <= 0.55, line


@pytest.mark.parametrize("video", [(832, 480), (1280, 320)], ids=str)
def test_of_a_face_that_fills_the_picture_eyes_and_mouth_are_kept_rather_than_hair(video: tuple[int, int]) -> None:
    whole = scene(560, 760, 0, 0, side=760)[:, 110:]  # of the head alone
    [face] = find_faces(whole)
    crop = crop_around((whole.shape[1], whole.shape[0]), face, video)
    assert crop.height < face.head[3] - face.head[1], "the head doesn't fit"
    eyes, mouth = face.points_N2[list(EYES), 1].mean(), face.points_N2[[13, 14], 1].mean()
    assert mouth - eyes > crop.height or crop.top < eyes < mouth < crop.top + crop.height
    chin = face.box[3]
    assert chin - eyes > crop.height or chin <= crop.top + crop.height + 1


def test_an_upright_portrait_keeps_its_head() -> None:
    picture = scene(512, 1024, 56, 0)
    [face] = find_faces(picture)
    middle = crop_around((512, 1024), None, (512, 512))
    assert middle == Crop(0, 256, 512, 512) and face.points_N2[list(EYES), 1].mean() < 256, "the eyes would be gone"
    assert crop_around((512, 1024), face, (512, 512)).top == 0


def said(picture: np.ndarray, video: tuple[int, int] = (512, 512)) -> str:
    faces = find_faces(picture)
    size = (picture.shape[1], picture.shape[0])
    return "; ".join(problems(size, faces, 0, crop_around(size, faces[0] if faces else None, video), video))


def test_nothing_is_said_of_a_good_picture() -> None:
    assert said(scene(900, 900, 150, 150, side=600)) == ""


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (np.full((600, 600, 3), 128, np.uint8), "no face"),
        (scene(3000, 3000, 1200, 1200), "face is small"),
        (scene(900, 900, 250, -150), "cut off"),
        (scene(200, 200, 10, 10, side=180), "enlarged"),
    ],
    ids=["none", "small", "cut", "tiny"],
)
def test_what_spoils_a_video_is_said(picture: np.ndarray, words: str) -> None:
    assert words in said(picture)


@pytest.mark.parametrize("degrees", [0, 30, 40, -50])
def test_a_face_that_is_turned_or_hidden_is_told(degrees: float) -> None:
    [face] = find_faces(scene(900, 900, 150, 150, side=600))
    middle, angle = face.points_N3.mean(axis=0), np.radians(degrees - face.yaw_degrees)
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    turned = replace(face, points_N3=(face.points_N3 - middle) @ turn + middle)
    assert abs(abs(turned.yaw_degrees) - abs(degrees)) < 8
    crop = crop_around((900, 900), turned, (512, 512))
    words = problems((900, 900), [turned], 0, crop, (512, 512))
    assert words == (
        []
        if abs(degrees) < 35
        else [f"the face is turned aside by {abs(turned.yaw_degrees):.0f} degrees: it should look at the camera"]
    )
    hidden = problems((900, 900), [replace(face, presence=0.6)], 0, crop, (512, 512))
    assert hidden == ["the face is partly hidden, blurred or turned away"]
