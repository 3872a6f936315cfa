"""Tests with validation: videos of the model in memory, held-out samples at fixed noise levels, and which are held out."""

from __future__ import annotations

import json
import math
import subprocess
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from served import Server
from tiny import tiny_transformer, tiny_weights
from training.conftest import SMALL, make_cache, random_sample
from training.gloo import FSDP
from training.test_loop import Maker, losses

from avatarctl.audio.source import ffmpeg
from avatarctl.data.shards import Index, SampleEntry
from avatarctl.errors import InputFileError, UsageError
from avatarctl.networks.checkpoints import load_transformer, save_weights
from avatarctl.render.video import inspect
from avatarctl.settings.train import TrainJob, TrainSettings
from avatarctl.training import checkpoints, train, validation
from avatarctl.training.holdout import split
from avatarctl.training.log import read


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A process that has imported everything."""
    served = Server(tmp_path_factory.mktemp("home"))
    yield served
    served.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights, a cache, a picture, a recording and a render preset."""
    folder = tmp_path_factory.mktemp("place")
    weights = tiny_weights(folder / "weights")
    dims = load_transformer(weights / "transformer.safetensors").dims
    save_weights(tiny_transformer(dims), weights / "transformer.safetensors", "ours")
    make_cache(folder / "cache", [random_sample("clip0-0")])
    Image.radial_gradient("L").convert("RGB").save(folder / "face.png")
    with wave.open(str(folder / "voice.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(np.random.default_rng(0).normal(0, 3000, 8000).astype("<i2").tobytes())
    (folder / "draft.yaml").write_text("size: 64x64\nsteps: 2\nwindow: 3\noverlap: 2\ndevice: cpu\nfit: cover\n")
    return folder


def settings_of(place: Path, **changes: Any) -> dict[str, Any]:
    return {
        **SMALL,
        "steps": 4,
        "weights": str(place / "weights"),
        "validate_every": 2,
        "validation_images": [str(place / "face.png")] * 2,
        "validation_audio": [str(place / "voice.wav")] * 2,
        "validation_seeds": [0, 7],
        "validation_preset": str(place / "draft.yaml"),
        **changes,
    }


def job_of(place: Path, output: Path, **changes: Any) -> TrainJob:
    return TrainJob(data=place / "cache", output=output, train=TrainSettings(**settings_of(place, **changes)))


def one(place: Path) -> dict[str, Any]:
    """Return the settings of one video at a time."""
    images, audio = [str(place / "face.png")], [str(place / "voice.wav")]
    return {"validation_images": images, "validation_audio": audio, "validation_seeds": [0]}


@pytest.fixture(scope="module")
def watched(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that made videos."""
    made = job_of(place, tmp_path_factory.mktemp("watched") / "run")
    train(made)
    return made.output


def pictures(video: Path) -> np.ndarray:
    command = [ffmpeg(), "-v", "error", "-i", str(video), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    return np.frombuffer(subprocess.run(command, check=True, capture_output=True).stdout, np.uint8)


def videos(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "validation").glob("*.mp4"))


# -- Videos -----------------------------------------------------------------------------------------------------------


def test_videos_from_memory_at_step_0_and_every_n_change_nothing(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Path, Path, Path]] = []

    def measure(video: Path, image: Path, audio: Path) -> dict[str, float]:
        seen.append((video, image, audio))
        return {"sync": 0.5}

    monkeypatch.setattr(validation, "MEASURES", [*validation.MEASURES, measure])
    watched, unwatched = job_of(place, tmp_path / "watched"), job_of(place, tmp_path / "unwatched", validate_every=0)
    train(watched), train(unwatched)
    names = [f"step-{step:08d}-{number:02d}.mp4" for step in (0, 2, 4) for number in (0, 1)]
    assert videos(watched.output) == names
    folder = watched.output / "validation"
    assert len({(folder / name).read_bytes() for name in names}) == 6  # steps and seeds differ
    found = inspect(folder / names[0])
    assert (found.width, found.height, found.audio_codec, found.pictures) == (64, 64, "aac", 13)
    rows = [line for line in read(watched.output) if "validation" in line]
    assert [(row["step"], row["validation"], row["sync"]) for row in rows] == [(int(n[5:13]), n, 0.5) for n in names]
    assert all((row["face.share"], row["findings"]) == (0, ["no_face"]) for row in rows)  # random networks
    assert [path.name for path, _, _ in seen] == names
    made = [load_transformer(job.output / "transformer.safetensors").state_dict() for job in (watched, unwatched)]
    assert all((made[0][key] == made[1][key]).all() for key in made[0])
    assert losses(watched.output) == losses(unwatched.output)


def test_the_video_is_the_one_that_generate_makes_of_the_export(
    server: Server, place: Path, watched: Path, tmp_path: Path
) -> None:
    (tmp_path / "weights").mkdir()
    for path in (place / "weights").iterdir():
        if path.name != "transformer.safetensors":
            (tmp_path / "weights" / path.name).symlink_to(path)
    (tmp_path / "weights" / "transformer.safetensors").symlink_to(watched / "transformer.safetensors")
    argv = ["generate", "-i", str(place / "face.png"), "-a", str(place / "voice.wav"), "-o", "video.mp4"]
    ended = server.run(tmp_path, [*argv, "--weights", "weights", "--preset", str(place / "draft.yaml"), "--seed", "7"])
    assert ended.status == 0, ended.log
    both = [pictures(tmp_path / "video.mp4"), pictures(watched / "validation" / "step-00000004-01.mp4")]
    assert both[0].shape == both[1].shape
    assert np.abs(both[0].astype(int) - both[1].astype(int)).max() <= 2


def test_the_average_of_the_weights_is_shown(place: Path, watched: Path, tmp_path: Path) -> None:
    averaged = job_of(place, tmp_path / "averaged", ema=0.99, **one(place))
    train(averaged)
    for name, same in (("step-00000000-00.mp4", True), ("step-00000004-00.mp4", False)):
        shown = [pictures(run / "validation" / name).tobytes() for run in (watched, averaged.output)]
        assert (shown[0] == shown[1]) is same


def test_inputs_are_looked_at_before_anything_is_trained(server: Server, place: Path, tmp_path: Path) -> None:
    for changes, words in [
        (
            {"validation_images": ["nope.png"], "validation_audio": ["voice.wav"]},
            "validation_images: got no such file: nope.png",
        ),
        (
            {"validation_images": [str(place / "face.png")], "validation_audio": ["nope.wav"]},
            "validation_audio: got no such file",
        ),
        (
            {"validation_images": [str(place / "voice.wav")], "validation_audio": [str(place / "voice.wav")]},
            "voice.wav",
        ),
    ]:
        (tmp_path / "bad.yaml").write_text(json.dumps(settings_of(place, validation_seeds=[], **changes)))
        argv = ["train", "--data", str(place / "cache"), "--output", "run", "--preset", "bad.yaml"]
        for more in (["--dry-run"], []):
            ended = server.run(tmp_path, [*argv, *more])
            assert ended.status == 4 and words in ended.log, ended.log
        assert not checkpoints.steps(tmp_path / "run")


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("no room on the card"), InputFileError("vae.safetensors: damaged"), OSError("no disk")],
)
def test_what_fails_is_noted_and_training_continues(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], error: Exception
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(validation, "write_video", fail)
    made = job_of(place, tmp_path / "run", **one(place))
    done = train(made)
    assert done is not None and done.steps == 4
    rows = [line for line in read(made.output) if "validation" in line]
    assert len(rows) == 3 and all(row["failed"] == str(error) for row in rows)
    assert f"{error}; training continues" in capfd.readouterr().err
    monkeypatch.undo()
    train(job_of(place, tmp_path / "run", **one(place)))  # what lacks of the newest step is rendered
    assert videos(made.output) == ["step-00000004-00.mp4"]


def test_conditions_are_computed_once(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = job_of(place, tmp_path / "run", steps=2, **one(place))
    train(made)
    from avatarctl.training import conditions

    def never(*_: Any) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(conditions, "_text_states", never)
    train(job_of(place, tmp_path / "run", steps=4, **one(place)))
    assert len(videos(made.output)) == 3


@pytest.mark.parametrize(
    "sharded", [pytest.param(False, id="copies"), pytest.param(True, id="fsdp2", marks=pytest.mark.long)]
)
def test_two_processes_render_the_videos(
    server: Server, place: Path, watched: Path, tmp_path: Path, sharded: bool
) -> None:
    """Copies share the videos; with sharded weights every pass is made together. The pictures are those of one process."""
    (tmp_path / "watched.yaml").write_text(json.dumps(settings_of(place, steps=2)))
    argv = ["train", "--data", str(place / "cache"), "--output", "both", "--preset", "watched.yaml", "--quiet"]
    both = server.run_together(tmp_path, argv, 2, over_gloo=sharded, **(FSDP if sharded else {}))
    assert all(each.status == 0 for each in both), [each.log[-3000:] for each in both]
    assert len(videos(tmp_path / "both")) == 4
    rows = [line for line in read(tmp_path / "both") if "validation" in line]
    assert len(rows) == 4 and not any("failed" in row for row in rows)
    first = [pictures(run / "validation" / "step-00000000-01.mp4") for run in (tmp_path / "both", watched)]
    assert np.abs(first[0].astype(int) - first[1].astype(int)).max() <= 2


# -- Held-out samples ---------------------------------------------------------------------------------------------------


def test_the_curve_is_measured_at_fixed_noise_levels_on_what_is_exported(job: Maker) -> None:
    plain, averaged = job("plain", holdout=2, holdout_every=3), job("averaged", holdout=2, holdout_every=3, ema=0.9)
    train(plain), train(averaged)
    lines = [[line for line in read(made.output) if "held_out_loss" in line] for made in (plain, averaged)]
    assert [line["step"] for line in lines[0]] == [0, 3, 6]
    levels = [name for name in lines[0][0] if name.startswith("held_out_loss_")]
    assert levels == [f"held_out_loss_{quantile}" for quantile in (0.1, 0.3, 0.5, 0.7, 0.9)]
    for line in lines[0]:
        assert line["held_out_loss"] == pytest.approx(sum(line[name] for name in levels) / 5)
    assert lines[0][0] == lines[1][0] and lines[0][2] != lines[1][2]  # the average lags behind
    assert losses(plain.output) == losses(averaged.output)


def entries(**clips: int) -> list[SampleEntry]:
    """Return samples of clips with so many windows of 81 pictures each."""
    return [
        SampleEntry(f"{clip}-{81 * i:06d}", "s", 0, 0, "", {}, {"frames": 81, "start_frame": 81 * i})
        for clip, count in clips.items()
        for i in range(count)
    ]


def test_one_long_video_holds_out_its_last_windows() -> None:
    found = split(entries(take=11), 2)
    assert [entry.key for entry in found.held_out] == ["take-000729", "take-000810"]
    assert len(found.train) == 9 and not found.left_out
    takes = split(entries(a=12, b=12, c=12), 2)
    assert len(takes.train) == 34 and {entry.key[2:] for entry in takes.held_out} == {"000891"}
    overlapping = [
        SampleEntry(f"take-{40 * i:06d}", "s", 0, 0, "", {}, {"frames": 81, "start_frame": 40 * i}) for i in range(11)
    ]
    found = split(overlapping, 2)
    assert [entry.key for entry in found.left_out] == ["take-000280", "take-000320"]
    assert len(found.train) == 7


def test_of_many_clips_whole_ones_are_held_out_and_new_clips_move_none() -> None:
    clips = {f"clip{i}": 1 + i % 3 for i in range(30)}
    found = split(entries(**clips), 4)
    held = {entry.key.rpartition("-")[0] for entry in found.held_out}
    assert len(found.held_out) == 4 and not held & {entry.key.rpartition("-")[0] for entry in found.train}
    more = split(entries(**clips, zebra=2), 4)
    assert {entry.key for entry in more.held_out} - {entry.key for entry in found.held_out} <= {
        "zebra-000000",
        "zebra-000081",
    }
    with pytest.raises(UsageError, match="expected some left to train on"):
        split(entries(a=1, b=1), 2)


def test_a_damaged_held_out_sample_is_named(job: Maker, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    samples = [random_sample(f"clip{i}-0") for i in range(4)]
    held = split(Index(make_cache(tmp_path / "whole", samples)).samples(), 2).held_out[0].key
    for sample in samples:
        if sample.key == held:
            sample.tensors["latents"][0] = math.nan  # type: ignore[index]
    made = job(holdout=2, steps=2).model_copy(update={"data": make_cache(tmp_path / "cache", samples)})
    train(made)
    assert f"damaged samples are not measured: {held}" in capfd.readouterr().err
    assert all(math.isfinite(line["held_out_loss"]) for line in read(made.output) if "held_out_loss" in line)
