"""Tests with memory that runs out on the way: the render steps down in place, loses nothing, says so, and ends the same."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from avatarctl.errors import DeviceError
from avatarctl.networks.dims import TRANSFORMER_1_3B
from avatarctl.networks.full import is_full
from avatarctl.networks.memory import Workload
from avatarctl.networks.residency import MODES
from avatarctl.networks.vae import DecodeStream
from avatarctl.render import engine, render
from avatarctl.render import networks as networks_module
from avatarctl.render.folder import RenderFolder
from avatarctl.render.inputs import job_of as job_in
from avatarctl.render.journey import journey
from avatarctl.render.place import no_memory
from avatarctl.sampling.predict import Predictor
from avatarctl.settings.check import make
from avatarctl.settings.placement import PlacementSettings
from avatarctl.settings.render import RenderJob, RenderSettings

FULL = "CUDA out of memory. Tried to allocate 2.00 GiB"


@pytest.fixture(autouse=True)
def as_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the CPU be treated as a GPU: networks come and go as the memory mode says, and may step down."""
    monkeypatch.setenv("AVATARCTL_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(engine, "may_step_down", lambda error, *_, **__: is_full(error))
    monkeypatch.setattr(networks_module, "residency_of", lambda placement: MODES[placement.memory](placement))

    def as_released(_: object, settings: RenderSettings, window: int, passes: int = 0) -> tuple[Workload, str]:
        return Workload(TRANSFORMER_1_3B, *settings.size, window, passes=passes), ""

    monkeypatch.setattr(engine, "workload_of", as_released)  # what steps save is calculated for the real network


def job(studio: Path, output: Path, size: tuple[int, int] = (64, 64), **placement: Any) -> RenderJob:
    return RenderJob(
        image=studio / "face.png",
        audio=studio / "voice.wav",
        output=output,
        weights=studio / "weights",
        render=RenderSettings(
            size=size, steps=2, window=3, overlap=2, segment_latent_frames=2, fit="cover", checkpoint_every_s=60
        ),
        placement=PlacementSettings(**{"device": "cpu", **placement}),
        keep=True,
    )


def fail_at(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, *times: int, error: str = FULL) -> list[int]:
    """Let the calls of these numbers fail as a full device does; return the list that counts them."""
    calls: list[int] = []
    real: Callable[..., Any] = getattr(owner, name)

    def sometimes(*arguments: Any, **options: Any) -> Any:
        calls.append(len(calls))
        if calls[-1] in times:
            raise RuntimeError(error) if error != FULL else torch.OutOfMemoryError(error)
        return real(*arguments, **options)

    monkeypatch.setattr(owner, name, sometimes)
    return calls


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


@pytest.fixture(scope="session")
def expected(studio: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The video of a render whose memory never ran out."""
    output = tmp_path_factory.mktemp("straight") / "talk.mp4"
    render(job(studio, output))
    return output.read_bytes()


def test_a_pass_that_finds_memory_full_loses_no_step(
    studio: Path, tmp_path: Path, expected: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = fail_at(monkeypatch, Predictor, "__call__", 2, 5)
    output = tmp_path / "talk.mp4"
    done = render(job(studio, output))
    assert output.read_bytes() == expected
    assert done.window_steps == 6 and len(steps) == 6 + 2, "what was done is not done again"
    told = events(job(studio, output).folder, "memory ran out")
    assert [each["stage"] for each in told] == ["sampling", "sampling"]
    assert next(each["memory"] for each in told) == "full" != told[1]["memory"]
    assert all(each["changes"] == [] for each in told)
    said = capsys.readouterr().err
    assert "memory ran out while sampling" in said and "continuing with --memory full, decoding in turn" in said
    assert f"continuing with --memory {told[1]['memory']}" in said


@pytest.mark.parametrize("words", ["CUDNN_STATUS_ALLOC_FAILED", "CUDA error: out of memory"])
def test_a_decode_that_finds_memory_full_first_moves_the_transformer_out(
    words: str, studio: Path, tmp_path: Path, expected: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at(monkeypatch, DecodeStream, "_push", 1, 2, error=words)
    output = tmp_path / "talk.mp4"
    render(job(studio, output))
    assert output.read_bytes() == expected
    first, told = events(job(studio, output).folder, "memory ran out")
    assert first["memory"] == "full" and told["memory"] != "full"
    assert told["stage"] == "decoding" and told["changes"] == []


def test_tiles_are_noted_as_a_change_and_stay(studio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fail_at(monkeypatch, DecodeStream, "_push", 3, 4, 5)
    output = tmp_path / "talk.mp4"
    large = job(studio, output, size=(256, 256))
    render(large)
    assert len(calls) > 5
    manifest = RenderFolder(large.folder).manifest()
    tiles = manifest["decided"]["vae_tiling"]
    assert re.fullmatch(r"\dx\d", tiles)
    assert f"vae_tiling: was False, is {tiles}" in manifest["accepted"]
    assert events(large.folder, "memory ran out")[-1]["changes"] == [f"vae_tiling: was False, is {tiles}"]
    assert b"changed on the way: vae_tiling" in output.read_bytes()
    # A part that is lost is decoded again in the same tiles.
    segment = sorted((large.folder / "segments").iterdir())[-1]
    before = segment.read_bytes()
    segment.unlink()
    output.unlink()
    render(job_in(manifest).model_copy(update={"work_dir": large.folder}))
    assert segment.read_bytes() == before


@pytest.mark.long
def test_tiles_that_were_refused_are_not_taken_and_the_hint_works(
    studio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at(monkeypatch, DecodeStream, "_push", *range(100))
    output = tmp_path / "talk.mp4"
    whole = job(studio, output, size=(256, 256), vae_tiling=False)
    with pytest.raises(DeviceError, match="memory is full while decoding") as caught:
        render(whole)
    assert caught.value.exit_code == 8 and "what is done is kept" in caught.value.message
    assert f"avatarctl resume {whole.folder} --vae-tiling --accept-changes" in caught.value.hint
    assert not any(each["changes"] for each in events(whole.folder, "memory ran out"))
    monkeypatch.undo()
    monkeypatch.setenv("AVATARCTL_HOME", str(tmp_path / "home"))
    # What `avatarctl resume FOLDER --vae-tiling --accept-changes` does.
    begun = job_in(RenderFolder(whole.folder).manifest())
    placement = make(PlacementSettings, {**begun.placement.model_dump(), "vae_tiling": True})
    again = begun.model_copy(update={"work_dir": whole.folder, "placement": placement, "accept_changes": True})
    render(again)
    assert output.exists()


def test_what_is_left_is_an_error_and_all_that_was_done_is_there(
    studio: Path, tmp_path: Path, expected: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = fail_at(monkeypatch, Predictor, "__call__", *range(2, 100))
    output = tmp_path / "talk.mp4"
    with pytest.raises(DeviceError, match="memory is full while sampling") as caught:
        render(job(studio, output))
    assert "--memory sequential" not in caught.value.hint, "that was tried"
    folder = job(studio, output).folder
    assert f"resume: avatarctl resume {shlex.quote(str(folder))}" in caught.value.hint
    saved = [each["window_steps"] for each in events(folder, "checkpoint")]
    assert saved and max(saved) == 2
    tried = len(calls)
    assert tried == 2 + 1 + len(events(folder, "memory ran out"))
    monkeypatch.undo()
    monkeypatch.setenv("AVATARCTL_HOME", str(tmp_path / "home"))
    done = render(job(studio, output))
    assert done.window_steps == 4 and output.read_bytes() == expected


@pytest.mark.long
def test_memory_that_is_full_from_the_start_leaves_what_the_hint_resumes(
    studio: Path, tmp_path: Path, expected: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at(monkeypatch, Predictor, "__call__", *range(100))
    output = tmp_path / "talk.mp4"
    with pytest.raises(DeviceError) as caught:
        render(job(studio, output))
    folder = re.findall(r"resume: avatarctl resume (\S+?);", caught.value.hint)[0]
    monkeypatch.undo()
    monkeypatch.setenv("AVATARCTL_HOME", str(tmp_path / "home"))
    render(job_in(RenderFolder(Path(folder)).manifest()).model_copy(update={"work_dir": Path(folder)}))
    assert output.read_bytes() == expected


def test_other_errors_of_the_device_are_no_reason_to_step_down(
    studio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at(monkeypatch, Predictor, "__call__", 2, error="CUDA error: an illegal memory access was encountered")
    with pytest.raises(RuntimeError, match="illegal memory access"):
        render(job(studio, tmp_path / "talk.mp4"))
    assert not events(job(studio, tmp_path / "talk.mp4").folder, "memory ran out")


def test_flags_that_the_hint_names_exist(tmp_path: Path) -> None:
    import typer

    from avatarctl import cli

    program: Any = typer.main.get_command(cli.app)
    flags = {flag for name in ("generate", "resume") for each in program.commands[name].params for flag in each.opts}
    for settings in (PlacementSettings(), PlacementSettings(vae_tiling=False), PlacementSettings(memory="sequential")):
        asked = RenderJob(image=tmp_path, audio=tmp_path, output=tmp_path / "x.mp4", placement=settings)
        for stage in ("sampling", "decoding", "conditions"):
            error = torch.OutOfMemoryError(FULL)
            error.stage = stage
            named = set(re.findall(r"--[a-z-]+", no_memory(asked, error).hint))
            assert named <= flags | {"--help"}, named - flags


def test_the_next_render_of_a_worker_begins_where_the_last_one_ended(
    studio: Path, tmp_path: Path, expected: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = networks_module.LoadedNetworks()
    fail_at(monkeypatch, Predictor, "__call__", 2, 3)
    for name in ("one", "two"):
        journey(job(studio, tmp_path / f"{name}.mp4"), False, lambda *_, **__: None, loaded)
        assert (tmp_path / f"{name}.mp4").read_bytes() == expected
    modes = [each["memory"] for each in events(tmp_path / "one.mp4.render", "memory ran out")]
    assert modes == ["full", "group"] and loaded._placement.memory == "group"
    assert not events(tmp_path / "two.mp4.render", "memory ran out")
