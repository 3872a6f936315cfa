"""Tests with render folders of the first version (one index.json, a file for each window in flight): they are resumed.

``data/first_version`` was left by a render of that version that was killed after nine of twenty passes. Another folder is
turned into that form here, so that its numbers are those of this machine.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from workshop import Case, Server, straight

from avatarctl import durable
from avatarctl.audio.decode import probe
from avatarctl.render import frontier
from avatarctl.render.folder import RenderFolder
from avatarctl.render.index import read_index
from avatarctl.weights import find_weights, fingerprint

LEFT = Path(__file__).parent / "data" / "first_version"


@pytest.fixture
def left(case: Case, studio: Path) -> Case:
    """A case whose render folder is that of the first version, of the files of this studio."""
    shutil.copytree(LEFT, case.render)
    case.audio = "long.wav"
    manifest = durable.unsealed(LEFT / "render.json")
    assert manifest is not None and manifest["version"] == 1
    places = {"image": studio / "face.png", "audio": studio / "long.wav", "weights": studio / "weights"}
    manifest["job"] |= {name: str(path) for name, path in places.items()} | {"output": str(case.output)}
    manifest["inputs"] = fingerprint([(name, places[name]) for name in ("image", "audio")])
    manifest["weights"] = fingerprint(find_weights(studio / "weights", (64, 64), "auto").by_role().items())
    (case.render / "render.json").write_bytes(durable.sealed(manifest))
    return case


def test_a_folder_of_the_first_version_is_told_of_and_resumed_where_it_was(left: Case) -> None:
    (left.render / "lock").touch()
    before = {path: path.read_bytes() for path in left.render.rglob("*") if path.is_file()}
    shown = left.command("renders", "show", str(left.render), "--json")
    assert shown.status == 0 and '"passes_done": 9' in shown.log and '"passes_total": 20' in shown.log, shown.log
    assert left.command("renders", "verify", str(left.render)).status == 0
    assert {path: path.read_bytes() for path in left.render.rglob("*") if path.is_file()} == before
    resumed = left.command("resume", str(left.render), "--progress", "json")
    assert resumed.status == 0, resumed.log
    assert resumed.steps()[0] == 10
    duration_s = probe(left.output).duration_s
    assert duration_s is not None and abs(float(duration_s) - 1.8) < 0.1


def test_opened_it_has_the_form_of_this_version(left: Case) -> None:
    names = sorted(json.loads((LEFT / "index.json").read_text())["files"])
    folder = RenderFolder(left.render)
    with folder.held():
        saved = frontier.load(folder)
        assert saved is not None and saved.first == 1
        assert {index: window.done for index, window in saved.windows.items()} == {1: 2, 2: 2, 3: 1, 4: 1, 5: 1}
        # The one before is kept until two of this form are there.
        for number in range(2):
            frontier.save(folder, saved)
            assert len(list((left.render / "frontier").glob("*-000[12].safetensors"))) == (5, 0)[number]
    assert not (left.render / "index.json").exists() and folder.manifest()["version"] == 2
    files = read_index(left.render).files
    assert [name for name in sorted(files) if not name.startswith("frontier")] == [
        n for n in names if n[:8] != "frontier"
    ]
    assert folder.verify()[1] == []


def test_a_damaged_index_of_the_first_version_is_told(left: Case) -> None:
    path = left.render / "index.json"
    path.write_bytes(path.read_bytes().replace(b"audio.f32", b"audio.f33"))
    assert left.command("renders", "verify", str(left.render)).status == 4
    resumed = left.command("resume", str(left.render), "--progress", "json")
    assert resumed.status == 0, resumed.log
    assert resumed.steps()[0] == 1


def as_first_version(render: Path) -> None:
    """Turn a render folder into what the first version would have left."""
    folder = RenderFolder(render)
    folder.look()
    saved = frontier.load(folder)
    files = dict(read_index(render).files)
    for name in [name for name in files if name.startswith("frontier")]:
        del files[name]
        (render / name).unlink()
    (render / "index.jsonl").unlink()
    from safetensors.torch import save

    listed = {name: {"sha256": entry.sha256, "bytes": entry.bytes} for name, entry in files.items()}
    if saved is not None:
        names = {}
        for index, window in saved.windows.items():
            names[str(index)] = name = f"frontier/{index:06d}-{window.done:04d}.safetensors"
            listed[name] = write(render / name, save(window.tensors()))
        generation = {"first": saved.first, "windows": names}
        name = "frontier/generation-00000005.json"
        listed[name] = write(render / name, json.dumps(generation, indent=1).encode())
    for name in ("track.f32", "track.json"):  # it decoded the recording once more for the video
        del listed[name]
        (render / name).unlink()
    for name in ("frames.json", "delivering.json"):
        (render / name).unlink(missing_ok=True)
    if (delivered := durable.unsealed(render / "delivered.json")) is not None:
        del delivered["files"]
        (render / "delivered.json").write_bytes(durable.sealed(delivered))
    (render / "index.json").write_bytes(durable.sealed({"files": listed}))
    manifest = durable.unsealed(render / "render.json")
    assert manifest is not None
    del manifest["decided"]
    (render / "render.json").write_bytes(durable.sealed({**manifest, "version": 1}))


def write(path: Path, data: bytes) -> dict[str, object]:
    path.write_bytes(data)
    return {"sha256": durable.digest(path), "bytes": len(data)}


@pytest.fixture(scope="module")
def expected(studio: Path, server: Server, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The video, rendered without interruption."""
    return straight(Case(studio, server, tmp_path_factory.mktemp("straight") / "case", "long.wav"))


@pytest.mark.long
def test_what_it_becomes_is_the_same_to_the_byte_also_after_kills(
    new_case: Callable[..., Case], expected: bytes
) -> None:
    case = new_case(audio="long.wav")
    case.stop(steps=9)
    as_first_version(case.render)
    kept = shutil.copytree(case.render, case.folder.with_name("kept"))
    for number in (0, 2, 3, 4, 5, 6, 7, 9, 12, 15):
        shutil.rmtree(case.render, ignore_errors=True)
        shutil.copytree(kept, case.render)
        if number:
            assert case.generate(fault="kill", at=number).status == -9, number
        attempt = case.generate()
        assert attempt.status == 0, attempt.log
        assert attempt.steps()[0] >= 10, f"write {number}: saved window steps were computed again"
        assert case.bytes() == expected, f"write {number}"
        case.output.unlink()


def test_several_processes_continue_it(left: Case) -> None:
    ended = left.server.run_together(left.folder, ["resume", str(left.render), "--progress", "json"], 2)
    assert [attempt.status for attempt in ended] == [0, 0], ended[0].told
    assert 10 <= ended[0].steps()[0] <= 11


def test_a_finished_one_that_was_kept_is_known_as_finished(new_case: Callable[..., Case]) -> None:
    case = new_case()
    assert case.generate("--keep").status == 0
    as_first_version(case.render)
    made = case.bytes()
    for number in range(2):  # the second time it has this version's form
        again = case.generate("--keep")
        assert again.status == 0 and "nothing is left to do" in again.told, again.told
        assert again.steps() == [] and case.bytes() == made, number


def test_pictures_that_it_wrote_are_its_own(new_case: Callable[..., Case]) -> None:
    case = new_case(audio="long.wav")
    frames = ("--frames", str(case.folder / "frames"))

    def once_there(pid: int) -> None:
        deadline = time.monotonic() + 60
        while len(list((case.folder / "frames").glob("*.png"))) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.kill(pid, signal.SIGKILL)

    assert case.generate(*frames, meanwhile=once_there).status == -signal.SIGKILL
    as_first_version(case.render)
    assert case.generate(*frames, fault="kill", at=12).status == -signal.SIGKILL
    resumed = case.generate(*frames)
    assert resumed.status == 0, resumed.told
    assert len(list((case.folder / "frames").glob("*.png"))) == 45
    # Those of another render are still refused.
    case.output.unlink()
    refused = case.generate(*frames)
    assert refused.status == 2 and "this render did not write it" in refused.told, refused.told


def test_one_that_heard_other_sound_is_refused_with_what_helps(left: Case) -> None:
    """Recordings with holes or late sound: the first version had no clock, and what it computed is of another sound."""
    index = durable.unsealed(left.render / "index.json")
    assert index is not None
    heard = np.fromfile(left.render / "audio.f32", "<f4")
    index["files"]["audio.f32"] = write(left.render / "audio.f32", np.roll(heard, 1600).tobytes())
    (left.render / "index.json").write_bytes(durable.sealed(index))
    for _ in range(2):
        refused = left.command("resume", str(left.render))
        assert refused.status == 7 and "heard this recording otherwise" in refused.told, refused.told
        assert "the same `avatarctl generate` with --force" in refused.told
    assert left.generate("--force").status == 0


def test_sound_that_another_resampler_rounds_otherwise_is_the_same_sound(left: Case) -> None:
    index = durable.unsealed(left.render / "index.json")
    assert index is not None
    heard = np.fromfile(left.render / "audio.f32", "<f4") + np.float32(1e-4)
    index["files"]["audio.f32"] = write(left.render / "audio.f32", heard.tobytes())
    (left.render / "index.json").write_bytes(durable.sealed(index))
    resumed = left.command("resume", str(left.render), "--progress", "json")
    assert resumed.status == 0, resumed.told
    assert resumed.steps()[0] == 10
