"""Tests of batches with pictures of people: each is framed around its face, a dry run says how, and warnings come once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from desk import Bench
from PIL import Image
from scenes import GREY, head, scene

from avatarctl.render import crop


def pictures(bench: Bench) -> Path:
    """Lay pictures of the voices' names: v00 an upright portrait, its head at the top, v01 two people, v02 nobody."""
    folder = bench.folder / "pictures"
    folder.mkdir()
    both = Image.new("RGB", (1600, 700), GREY)
    both.paste(head(300), (60, 200))
    both.paste(head(500), (1050, 120))
    for name, picture in (("v00", scene(500, 1000, 50, 0)), ("v01", np.array(both)), ("v02", scene(300, 300, 301, 0))):
        Image.fromarray(picture).save(folder / f"{name}.png")
    return folder


@pytest.mark.long
def test_a_batch_frames_each_picture_as_its_dry_run_says(bench: Bench) -> None:
    source, folder = bench.voices(0.68, 0.68, 0.3), pictures(bench)
    flags = ("--image", str(folder), "--fit", "face", "--jobs", "1")
    dry = bench.run(source, *flags, "--dry-run", "--json")
    assert dry.status == 0, dry.err
    planned = {row["output"]: row for row in dry.data()["items"]}
    assert planned["v00.mp4"]["crop"]["top"] == 0 and planned["v00.mp4"]["crop"]["height"] == 500
    assert planned["v01.mp4"]["crop"]["face"] == 2 and len(planned["v01.mp4"]["faces"]) == 2
    assert planned["v02.mp4"]["crop"]["face"] is None and planned["v02.mp4"]["faces"] == []
    text = bench.run(source, *flags, "--dry-run", "--progress", "none")
    assert "crop 500x500 at (0, 0) of 500x1000: face " in text.out and "no face found" in text.out
    assert text.err.count("v02.png: no face was found") == 1
    done = bench.run(source, *flags, "--progress", "none", "--json")
    assert done.status == 0, done.err
    for row in done.data()["items"]:
        record = json.loads((bench.output / ".avatarctl-batch" / f"{row['output']}.json").read_text())
        assert record["manifest"]["crop"] == planned[row["output"]]["crop"]
        assert row["notes"] == record["manifest"]["crop"]["warnings"]
    assert done.err.count("no face was found") == 1 and "2 faces were found" in done.err


@pytest.mark.long
def test_one_picture_for_many_is_warned_of_once(bench: Bench) -> None:
    source = bench.voices(0.3, 0.3)
    done = bench.run(source, "--fit", "face", "--jobs", "1", "--progress", "none")
    assert done.status == 0 and done.err.count("no face was found") == 1, done.err
    assert [len(row["notes"]) for row in bench.summary()["items"]] == [1, 1]


def test_a_face_that_a_picture_has_not_is_a_mistake_before_anything_starts(bench: Bench) -> None:
    bench.voices(0.3, 0.3)
    folder = pictures(bench)
    rows = [
        {"audio": "voices/v00.wav", "image": "pictures/v01.png", "fit": "face", "face": 1},
        {"audio": "voices/v01.wav", "image": "pictures/v01.png", "fit": "face", "face": 3},
    ]
    manifest = bench.folder / "list.jsonl"
    manifest.write_text("\n".join(map(json.dumps, rows)))
    for more in ((), ("--dry-run",)):
        wrong = bench.run(manifest, "--progress", "none", *more)
        assert wrong.status == 2 and "--face: got 3" in wrong.err and "2 faces, expected 1 to 2" in wrong.err
        assert "line 2" in wrong.err and not bench.output.exists()
    rows[1]["face"] = 2
    manifest.write_text("\n".join(map(json.dumps, rows)))
    dry = bench.run(manifest, "--dry-run", "--json")
    assert [row["crop"]["face"] for row in sorted(dry.data()["items"], key=lambda row: row["output"])] == [1, 2]
    assert folder.exists()


def test_one_picture_is_looked_at_once(bench: Bench) -> None:
    from avatarctl.settings.render import RenderJob, RenderSettings

    image = bench.folder / "me.png"
    Image.fromarray(scene(500, 1000, 50, 0)).save(image)
    settings = RenderSettings(size=(64, 64), fit="face")
    job = RenderJob(image=image, audio=Path("a.wav"), output=Path("a.mp4"), render=settings)
    wide = job.model_copy(update={"render": settings.model_copy(update={"size": (128, 64)})})
    middle = job.model_copy(update={"render": settings.model_copy(update={"fit": "cover"})})
    first, again, other, none = crop.frame_apart([job, job, wide, middle])
    assert first is again and first is not None and other is not None and none is None
    assert first == crop.frame(job) and (other.width, other.height) == (500, 250)
