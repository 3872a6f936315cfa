"""Tests with faces anywhere in a picture through the real command: the video begins with the head in it, and one crop stays."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file
from scenes import GREY, head, photograph, scene
from variants import some
from workshop import Case, straight

from avatarctl import durable
from avatarctl.faces.find import Face, find_faces
from avatarctl.faces.landmarks import EYES
from avatarctl.networks.images import load_image

NewCase = Callable[..., Case]
SIZES = ("512x512", "480x832", "832x480")
ALONE = {
    "high": scene(800, 1400, 200, 0),
    "low": scene(800, 1400, 200, 960),
    "left": scene(1700, 800, 0, 200),
    "right": scene(1700, 800, 1290, 200),
    "turned": scene(1000, 1300, 260, 300, side=480, degrees=25),
    "large": scene(760, 760, 30, 30, side=700),
}


def save(case: Case, picture: np.ndarray, name: str = "me.png") -> str:
    """Save a picture beside the video."""
    Image.fromarray(picture).save(case.folder / name)
    return name


def run(case: Case, *flags: str, **how: Any) -> Any:
    """Run ``generate`` as people see it."""
    return case.generate("--progress", "none", *flags, **how)


def data(attempt: Any) -> dict[str, Any]:
    """Return the data of ``--json``."""
    return json.loads(attempt.log[attempt.log.index("{\n") :])["data"]


def shown(case: Case, *flags: str) -> tuple[np.ndarray, dict[str, Any], str]:
    """Return the picture that ``--show-crop`` writes, its data and what was said."""
    attempt = run(case, "--fit", "face", "--show-crop", "crop.png", "--force", "--json", *flags)
    assert attempt.status == 0, attempt.log
    assert not case.output.exists() and not case.render.exists()
    return np.array(Image.open(case.folder / "crop.png")), data(attempt), attempt.log


def eyes(face: Face) -> np.ndarray:
    return face.points_N2[list(EYES)].mean(axis=0)


def two() -> np.ndarray:
    """Return a wide picture of a small face at the left and a larger one at the right."""
    room = Image.new("RGB", (1600, 700), GREY)
    room.paste(head(300), (60, 200))
    room.paste(head(500), (1050, 120))
    return np.array(room)


@pytest.mark.parametrize("size", some(SIZES, "512x512", "480x832"))
@pytest.mark.parametrize("place", ALONE)
def test_the_head_is_in_the_video(case: Case, place: str, size: str) -> None:
    picture, told, said = shown(case, "-i", save(case, ALONE[place]), "--size", size)
    assert f"{picture.shape[1]}x{picture.shape[0]}" == size
    [before], [after] = find_faces(ALONE[place]), find_faces(picture)
    crop, scale = told["crop"], picture.shape[0] / told["crop"]["height"]
    placed = (eyes(before) - [crop["left"], crop["top"]]) * scale
    assert np.abs(placed - eyes(after)).max() < 4 * max(scale, 1), "what is shown is the crop that is told"
    assert abs(crop["face_px"] - after.height) < 0.06 * after.height
    height, width = ALONE[place].shape[:2]
    assert crop["picture"] == [width, height]
    assert crop["left"] + crop["width"] <= width and crop["top"] + crop["height"] <= height
    low, high = np.maximum(before.head[:2], 0), np.minimum(before.head[2:], [width, height])
    fits = high - low <= [crop["width"], crop["height"]]
    start = np.array([crop["left"], crop["top"]])
    end = start + np.array([crop["width"], crop["height"]])
    for axis in (0, 1):
        assert not fits[axis] or (low[axis] >= start[axis] - 1 and high[axis] <= end[axis] + 1)
    if 0 < crop["top"] < height - crop["height"] and fits[1]:
        assert 0.3 < eyes(after)[1] / picture.shape[0] < 0.55
    assert (
        f"crop {crop['width']}x{crop['height']} at ({crop['left']}, {crop['top']}) of {width}x{height}: face " in said
    )
    assert ("middle" in said) is False


WARNED = {
    "none": (photograph("coffee.png")[:400, :400], "no face was found"),
    "small": (scene(3000, 3000, 1300, 1400), "the face is small"),
    "cut by the edge": (scene(900, 900, 250, -150), "cut off by the picture's edge"),
    "tiny picture": (scene(220, 220, 10, 10, side=200), "the picture is small"),
    "too large for the video": (scene(900, 900, 0, 0, side=900)[100:800], "the head is cut off"),
}


@pytest.mark.parametrize("what", WARNED)
def test_what_spoils_a_video_is_said(case: Case, what: str) -> None:
    picture, words = WARNED[what]
    size = "832x480" if what.startswith("too large") else "512x512"
    _, told, said = shown(case, "-i", save(case, picture), "--size", size)
    [note] = [note for note in told["notes"] if words in note]
    assert note.startswith("me.png: ") and f"warning: {note}" in said


def test_without_a_face_it_is_the_middle(case: Case) -> None:
    picture = photograph("coffee.png")
    framed, told, said = shown(case, "-i", save(case, picture), "--size", "512x512")
    crop = told["crop"]
    assert (crop["face"], told["faces"]) == (None, [])
    assert abs(crop["left"] - (crop["picture"][0] - crop["left"] - crop["width"])) <= 1 and crop["top"] == 0
    assert "the middle, no face found" in said
    assert np.array_equal(
        framed,
        np.array(
            Image.fromarray(picture).resize(
                (512, 512),
                Image.Resampling.BICUBIC,
                box=(crop["left"], 0, crop["left"] + crop["width"], crop["height"]),
            )
        ),
    )


def test_of_several_faces_the_largest_or_the_one_with_the_number(case: Case) -> None:
    name = save(case, two())
    numbered, told, said = shown(case, "-i", name, "--size", "512x512")
    assert told["crop"]["face"] == 2 and [face["number"] for face in told["faces"]] == [1, 2]
    assert "2 faces" in said and "--face N" in said and "number 2 from the left" in said
    assert told["faces"][0]["box"][0] < told["faces"][1]["box"][0]
    right, told_right, said_right = shown(case, "-i", name, "--size", "512x512", "--face", "2")
    left, told_left, _ = shown(case, "-i", name, "--size", "512x512", "--face", "1")
    assert "--face N" not in said_right
    assert told_right["crop"]["left"] == told["crop"]["left"] > told_left["crop"]["left"]
    red = (numbered.astype(int) - right)[..., 0] > 100
    assert 50 < red.sum() < 10000, "numbers are drawn where there is something to choose"
    [face] = find_faces(left)
    assert abs(face.height - told_left["crop"]["face_px"]) < 10
    for flags in (("--show-crop", "x.png"), ("--dry-run",), ()):
        wrong = run(case, "-i", name, "--fit", "face", "--face", "3", *flags)
        assert wrong.status == 2 and "--face: got 3, and me.png has 2 faces, expected 1 to 2" in wrong.log, flags
        assert not case.render.exists() and not (case.folder / "x.png").exists()
    none = run(case, "--fit", "face", "--face", "1")
    assert none.status == 2 and "no face was found" in none.log


def test_a_face_needs_fit_face(case: Case) -> None:
    wrong = run(case, "--face", "1")
    assert wrong.status == 2 and "got 1 with fit cover, expected fit face" in wrong.log


def test_turned_and_large_pictures_are_framed_as_people_see_them(case: Case) -> None:
    upright = Image.fromarray(scene(3000, 4500, 1000, 100, side=1500))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying, to be turned clockwise
    upright.rotate(90, expand=True).save(case.folder / "phone.jpg", exif=exif, quality=92)
    framed, told, _ = shown(case, "-i", "phone.jpg", "--size", "512x512")
    assert told["crop"]["picture"] == [3000, 4500] and told["crop"]["width"] == told["crop"]["height"] == 3000
    [face] = find_faces(framed)
    assert told["crop"]["top"] == 0 and abs(face.height - told["crop"]["face_px"]) < 6


def test_dry_run_and_render_say_the_same_and_the_video_begins_with_that_crop(case: Case) -> None:
    name = save(case, scene(512, 768, 56, 0))
    flags = ("-i", name, "--fit", "face", "--seed", "1")
    dry = data(run(case, *flags, "--dry-run", "--json"))
    plain = run(case, *flags, "--dry-run", "--show-crop", "dry.png")
    assert "crop 512x512 at (0, 0) of 512x768: face " in plain.log and (case.folder / "dry.png").exists()
    done = run(case, *flags, "--json", "--keep")
    assert done.status == 0, done.log
    made = data(done)
    assert (made["crop"], made["faces"]) == (dry["crop"], dry["faces"])
    assert made["crop"]["top"] == 0 and (made["crop"]["width"], made["crop"]["height"]) == (512, 512)
    assert made["notes"] == dry["notes"]
    manifest = json.loads((case.render / "render.json").read_text())
    assert manifest["crop"] == made["crop"] and "crop" not in manifest["job"]["render"]
    # The networks saw this crop, not the middle.
    whole = load_file(case.render / "conditions.safetensors")["image"]
    middle = run(case, *flags, "--fit", "cover", "--keep", "-o", "middle.mp4")
    assert middle.status == 0
    assert not (whole == load_file(case.folder / "middle.mp4.render" / "conditions.safetensors")["image"]).all()


def test_a_resumed_render_keeps_its_crop_whatever_the_finder_says_by_then(case: Case, new_case: NewCase) -> None:
    flags = ("--fit", "face")
    other = new_case("other")
    for each in (case, other):
        save(each, scene(600, 900, 100, 30))
    wanted = straight(other, "-i", "me.png", *flags)
    case.stop("-i", "me.png", *flags)
    assert straight(case, "-i", "me.png", *flags) == wanted
    case.output.unlink()
    # A render that was only begun, with a crop of its own: it is read, not found again.
    case.stop("-i", "me.png", *flags)
    content = durable.unsealed(case.render / "render.json")
    assert content is not None
    content["crop"] |= {"left": 0, "top": 300}
    (case.render / "render.json").write_bytes(durable.sealed(content))
    for path in ("conditions.safetensors", "index.jsonl"):
        (case.render / path).unlink()
    for path in [*case.render.glob("frontier/*"), *case.render.glob("windows/*"), *case.render.glob("segments/*")]:
        path.unlink()
    dry = data(run(case, "-i", "me.png", *flags, "--dry-run", "--json"))
    assert dry["crop"]["top"] == 300
    resumed = case.command("resume", str(case.render), "--json")
    assert resumed.status == 0, resumed.log
    assert data(resumed)["crop"]["top"] == 300 and case.bytes() != wanted


@pytest.mark.parametrize("how", ["resume", "the same command"])
def test_a_render_of_an_older_version_is_continued_as_it_began(case: Case, how: str) -> None:
    name = save(case, scene(600, 900, 100, 30))
    wanted = straight(case, "-i", name)
    case.output.unlink()
    case.stop("-i", name)
    content = durable.unsealed(case.render / "render.json")
    assert content is not None and content.pop("crop") is None and content.pop("faces") is None
    content["job"]["render"].pop("face")
    if how == "resume":
        content["job"]["render"].pop("fit")
    (case.render / "render.json").write_bytes(durable.sealed(content))
    (case.render / "conditions.safetensors").unlink()
    if how == "resume":
        done = case.command("resume", str(case.render))
    else:  # its default is a face by now
        assert run(case, "-i", name, "--fit", "face", "--dry-run").status == 0
        done = run(case, "-i", name, "--fit", "face")
        assert "older version began it" in done.log
    assert done.status == 0, done.log
    assert case.bytes() == wanted


def test_the_crop_is_never_written_over_an_input_or_without_force(case: Case) -> None:
    name = save(case, scene(600, 600, 100, 100))
    before = (case.folder / name).read_bytes()
    (case.folder / "there.png").write_bytes(b"mine")
    (case.folder / "link.png").hardlink_to(case.folder / name)
    for target, words in (
        (name, "would be overwritten"),
        ("link.png", "would be overwritten"),
        ("there.png", "exists already"),
        ("crop.jpg", "expected a name that ends in .png"),
        ("talk.mp4.render/crop.png", "lies in it"),
        (".", "expected the name of a PNG file"),
    ):
        flags = ("--force",) if target in (name, "link.png") else ()
        wrong = run(case, "-i", name, "--fit", "face", "--show-crop", target, *flags)
        assert wrong.status == 2 and words in wrong.log, wrong.log
    assert (case.folder / name).read_bytes() == before and (case.folder / "there.png").read_bytes() == b"mine"
    assert run(case, "-i", name, "--fit", "face", "--show-crop", "there.png", "--force").status == 0
    assert Image.open(case.folder / "there.png").size == (64, 64)


@pytest.mark.parametrize("fit", ["cover", "pad"])
def test_show_crop_shows_what_the_networks_get_with_every_fit(case: Case, fit: str) -> None:
    name = save(case, scene(400, 800, 0, 0))
    attempt = run(case, "-i", name, "--fit", fit, "--show-crop", "crop.png", "--json")
    assert attempt.status == 0 and data(attempt)["crop"] is None
    stored = np.array(Image.open(case.folder / "crop.png"))
    pixels = load_image(case.folder / name, 64, 64, fit).pixels_CHW  # type: ignore[arg-type]
    assert np.abs(((pixels + 1) * 127.5).permute(1, 2, 0).numpy() - stored).max() < 0.51
    assert any("cut off" in note for note in data(attempt)["notes"]) == (fit == "cover")


def test_framing_stays_out_of_processes_that_only_plan(case: Case, tmp_path: Path) -> None:
    """Dry runs look for faces in a process of their own; where that can't be, they say so."""
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "torch.py").write_text("raise ImportError('broken on purpose')")
    attempt = run(case, "--fit", "face", "--dry-run", PYTHONPATH=str(broken))
    assert attempt.status == 8 and "broken on purpose" in attempt.log and "--fit cover" in attempt.log
