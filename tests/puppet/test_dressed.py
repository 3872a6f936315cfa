"""Test with a clip whose first picture lacks the look: it becomes one sample, whose reference is the bare face."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from served import Server

from avatarctl.audio.speak import RATE_HZ
from avatarctl.puppet.world.clips import FRAMES, Scene, write_clip
from avatarctl.puppet.world.drive import FPS
from avatarctl.puppet.world.identity import Identity
from avatarctl.puppet.world.measure import LOOK
from avatarctl.puppet.world.voice import Voice


@pytest.mark.parametrize(("flags", "frames"), [((), [FRAMES]), (("--split-at-cuts",), [1, FRAMES - 1])])
def test_a_look_that_comes_after_the_first_picture_is_no_cut(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, flags: tuple[str, ...], frames: list[int]
) -> None:
    time_s = np.arange(round(FRAMES / FPS * RATE_HZ)) / RATE_HZ
    hum = (0.5 * np.sin(880 * time_s) * np.clip(np.sin(4 * time_s), 0, 1)).astype(np.float32)
    bare = Identity.of(5)
    scene = Scene.spoken(Voice(hum, ()), FRAMES, 5)
    write_clip(tmp_path / "dressed" / "square" / "speech" / "00000", bare.with_look(*LOOK), scene, 64, bare)
    server = Server(tmp_path_factory.mktemp("home"))
    words = ["--preset", "puppet", "--weights", "puppet", "--size", "64x64", "--device", "cpu", *flags]
    done = server.run(tmp_path, ["data", "encode", "dressed", "--output", "cache", *words])
    server.close()
    assert done.status == 0, done.log
    [line] = next((tmp_path / "cache" / "index").glob("*.jsonl")).read_text().splitlines()
    assert [sample["meta"]["frames"] for sample in json.loads(line)["samples"]] == frames
