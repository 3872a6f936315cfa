"""A dry run meets what the render would meet: it ends with the same exit code, and writes nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save_file
from workshop import Case, write_wav

from avatarctl.render import room
from avatarctl.render.room import Disk, Need

NewCase = Callable[..., Case]


def bad(case: Case, kind: str) -> list[str]:
    """Return the flags of a render that can't be, whose files are laid into the case's folder."""
    import torch

    here = case.folder
    if kind == "start past the end":
        return ["--start", "60"]
    if kind == "LoRA of another network":
        return ["--lora", str(case.studio / "weights" / "vae.safetensors")]
    if kind == "LoRA of another size":
        layer = "blocks.0.self_attn.q"
        halves = {f"{layer}.lora_A.weight": torch.ones(2, 7), f"{layer}.lora_B.weight": torch.ones(7, 2)}
        save_file(halves, here / "other.safetensors")
        return ["--lora", "other.safetensors"]
    if kind == "no such GPU":
        return ["--device", "cuda:7"]
    if kind == "sound that ends in the middle":
        data = (case.studio / "voice.wav").read_bytes()
        write_wav(here / "nan.wav", np.zeros((16000, 1)), 16000)
        samples = np.zeros(16000, "<f4")
        samples[8000] = np.nan
        head = b"RIFF" + (36 + 64000).to_bytes(4, "little") + b"WAVEfmt " + (16).to_bytes(4, "little")
        head += (3).to_bytes(2, "little") + (1).to_bytes(2, "little") + (16000).to_bytes(4, "little")
        head += (64000).to_bytes(4, "little") + (4).to_bytes(2, "little") + (32).to_bytes(2, "little")
        (here / "nan.wav").write_bytes(head + b"data" + (64000).to_bytes(4, "little") + samples.tobytes())
        assert data
        return ["-a", "nan.wav"]
    if kind == "a folder of the user":
        (here / "mine").mkdir()
        (here / "mine" / "diary.txt").write_text("mine")
        return ["--work-dir", "mine"]
    if kind == "output is the recording":
        shutil.copy(case.studio / "voice.wav", here / "talk.mp4")
        return ["-a", "talk.mp4", "--force"]
    assert kind == "other inputs than it began with"
    case.stop()
    return ["--seed", "5"]


KINDS = {
    "start past the end": 4,
    "LoRA of another network": 5,
    "LoRA of another size": 5,
    "no such GPU": 8,
    "sound that ends in the middle": 4,
    "a folder of the user": 2,
    "output is the recording": 2,
    "other inputs than it began with": 7,
}


@pytest.mark.parametrize("kind", KINDS)
def test_it_ends_as_the_render_would_and_a_failed_start_leaves_nothing(case: Case, kind: str) -> None:
    flags = bad(case, kind)
    before = sorted(path for path in case.folder.rglob("*") if path.name != "attempt.log")
    dry = case.generate(*flags, "--dry-run")
    assert dry.status == KINDS[kind], dry.log
    assert sorted(path for path in case.folder.rglob("*") if path.name != "attempt.log") == before
    real = case.generate(*flags)
    assert real.status == KINDS[kind], real.log
    said = [attempt.told.split("error: ")[1].split("\nhint")[0] for attempt in (dry, real)]
    assert said[0] == said[1]
    if kind != "other inputs than it began with":
        assert sorted(path for path in case.folder.rglob("*") if path.name != "attempt.log") == before
        if not case.output.exists():
            assert case.generate().status == 0, "the next try works"


def test_an_empty_work_dir_stays_when_a_start_fails_in_it_and_folders_that_were_made_go(case: Case) -> None:
    (case.folder / "work").mkdir()
    failed = case.generate("--start", "60", "--work-dir", "work", "-o", "new/deep/talk.mp4")
    assert failed.status == 4
    assert list((case.folder / "work").iterdir()) == [] and not (case.folder / "new").exists()
    failed = case.generate("--device", "cuda:7", "--work-dir", "made/work")
    assert failed.status == 8 and not (case.folder / "made").exists()
    assert case.generate("--work-dir", "work").status == 0


def test_it_tells_what_the_disk_has_to_hold(case: Case) -> None:
    dry = case.generate("--dry-run", "--json", "--frames", "frames")
    data = json.JSONDecoder().raw_decode(dry.log[dry.log.index("{\n") :])[0]["data"]
    (disk,) = data["disks"]
    assert 0 < data["least_bytes"] < disk["bytes"] < disk["free_bytes"]
    assert (data["in_flight"], data["in_flight_bytes"]) == (3, 3 * 3 * 16 * 8 * 8 * 4), "all three windows in float32"
    assert "free in" in case.generate("--dry-run").log


def test_what_clearly_does_not_fit_is_refused_at_the_start(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    from avatarctl.errors import DeviceError
    from avatarctl.render import render
    from avatarctl.settings.render import RenderJob, RenderSettings

    def small(_: Any) -> Any:
        return shutil._ntuple_diskusage(10**6, 10**6 - 5000, 5000)  # type: ignore[attr-defined]

    monkeypatch.setattr(room.shutil, "disk_usage", small)
    job = RenderJob(
        image=case.studio / "face.png",
        audio=case.studio / "voice.wav",
        output=case.output,
        weights=case.studio / "weights",
        render=RenderSettings(size=(64, 64), steps=2),
    )
    with pytest.raises(DeviceError, match=r"the disk is full or too small: got 5.0 kB free, expected at least .* kB"):
        render(job)
    assert not job.folder.exists()


def test_needs_of_one_disk_are_added_up(tmp_path: Path) -> None:
    needs = [Need(tmp_path / "a" / "b", "the render folder", 1000, 100), Need(tmp_path / "c", "the video", 500, 50)]
    (disk,) = room.disks_of(needs)
    assert (disk.bytes, disk.least_bytes) == (1500, 150)
    room.check_room([Disk(tmp_path, tuple(needs), 150)])
    tight = room.in_words([Disk(tmp_path, tuple(needs), 150)])
    assert tight == f"about 1.5 kB of 150 bytes free in {tmp_path}: this may not be enough"


@pytest.mark.parametrize(
    ("flags", "tensors"),
    [(("--solver", "ab2"), 2), (("--guidance-reuse", "2"), 2), (("--solver", "ab2", "--guidance-reuse", "2"), 3)],
)
def test_windows_in_flight_are_counted_with_all_that_they_keep(
    case: Case, flags: tuple[str, ...], tensors: int
) -> None:
    """As a checkpoint of such a render holds it: latents, the velocity before, the guidance that is used again."""
    dry = case.generate("--dry-run", "--json", *flags)
    data = json.JSONDecoder().raw_decode(dry.log[dry.log.index("{\n") :])[0]["data"]
    assert data["in_flight_bytes"] == tensors * 3 * 3 * 16 * 8 * 8 * 4
