"""Tests that a video is durable in its folder before anything of its render is removed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from avatarctl import durable
from avatarctl.render.delivered import hand_over, mark_delivered
from avatarctl.render.folder import MANIFEST_VERSION, RenderFolder


def test_the_folders_of_the_output_are_flushed_before_the_render_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, str]] = []
    flush, unlink, write = durable.flush_folder, Path.unlink, durable.replace
    monkeypatch.setattr(durable, "flush_folder", lambda folder: (done.append(("flush", str(folder))), flush(folder)))
    monkeypatch.setattr(Path, "unlink", lambda path, **how: (done.append(("remove", str(path))), unlink(path, **how)))
    monkeypatch.setattr(
        durable, "replace", lambda path, *how, **more: (done.append(("write", str(path))), write(path, *how, **more))
    )
    folder = RenderFolder(tmp_path / "work")
    output = tmp_path / "new" / "deep" / "talk.mp4"
    with folder.held():
        folder.write_manifest({"version": MANIFEST_VERSION, "job": {}})
        folder.write("audio.f32", b"1234")
        part = folder.new_part("video.mp4")
        part.write_bytes(b"a video")
        done.clear()
        hand_over(folder, part, output)
        mark_delivered(folder, output, {})
        delivered = done.index(("write", str(folder.path / "delivered.json")))
        for place in (output.parent, output.parent.parent, tmp_path):
            assert ("flush", str(place)) in done[:delivered], place
        folder.remove()
    removed = [place for what, place in done if what == "remove" and place.startswith(str(folder.path))]
    assert str(folder.path / "audio.f32") in removed
    assert done.index(("remove", str(folder.path / "audio.f32"))) > delivered
    assert output.read_bytes() == b"a video"


def test_an_output_on_another_disk_is_flushed_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[str] = []
    flush = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda handle: (flushed.append(str(Path(f"/proc/self/fd/{handle}").readlink())), flush(handle))
    )

    def from_another_disk(source: str | Path, target: str | Path, **_: object) -> None:
        if Path(source).parent != Path(target).parent:
            raise OSError(18, "Invalid cross-device link")
        shutil.copy(source, target)
        Path(source).unlink()

    monkeypatch.setattr(os, "rename", from_another_disk)
    folder = RenderFolder(tmp_path / "work")
    with folder.held():
        folder.write_manifest({"version": MANIFEST_VERSION, "job": {}})
        part = folder.new_part("video.mp4")
        part.write_bytes(b"a video")
        flushed.clear()
        hand_over(folder, part, tmp_path / "talk.mp4")
    near = [place for place in flushed if place.endswith(".part") and Path(place).parent == tmp_path]
    assert near and str(tmp_path) in flushed[flushed.index(near[0]) :]
    assert (tmp_path / "talk.mp4").read_bytes() == b"a video" and not part.exists()
