"""Tests with what the numbers of a render depend on: noted, refused when it changes, accepted on demand, told in the video."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from workshop import Case, straight

from avatarctl import durable
from avatarctl.errors import ChangedError
from avatarctl.networks.placement import Placement
from avatarctl.networks.tiling import tilings
from avatarctl.render.folder import MANIFEST_VERSION, RenderFolder
from avatarctl.render.marks import line_of
from avatarctl.render.numbers import settle, versions
from avatarctl.settings.placement import PlacementSettings
from avatarctl.settings.render import RenderJob

NewCase = Callable[..., Case]
CPU = Placement(torch.device("cpu"), torch.float32, "full", float8=False, attention=None, compile=False)
CHANGED = 7


@pytest.fixture
def job(tmp_path: Path) -> RenderJob:
    return RenderJob(image=tmp_path / "me.png", audio=tmp_path / "a.wav", output=tmp_path / "talk.mp4")


@pytest.fixture
def folder(job: RenderJob) -> RenderFolder:
    """A render that began on this CPU."""
    folder = RenderFolder(job.folder)
    folder.path.mkdir()
    manifest = {"version": MANIFEST_VERSION, "job": json.loads(job.model_dump_json()), "libraries": versions()}
    folder.write_manifest(manifest)
    settle(job, folder, CPU)
    return folder


def events(folder: RenderFolder) -> list[dict[str, Any]]:
    path = folder.path / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_what_was_decided_stands_in_the_manifest(job: RenderJob, folder: RenderFolder) -> None:
    decided = folder.manifest()["decided"]
    assert decided.pop("device_name")
    assert decided == {
        "dtype": "float32",
        "weights_dtype": "same",
        "matmul_dtype": "same",
        "attention": "auto",
        "compile": False,
        "vae_dtype": "float32",
        "vae_tiling": False,
        "device": "cpu",
    }
    settle(job, folder, CPU)
    assert events(folder) == []


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"dtype": torch.bfloat16}, "dtype: was float32, is bfloat16"),
        ({"float8": True}, "weights_dtype: was same, is float8"),
        ({"attention": "flash"}, "attention: was auto, is flash"),
        ({"compile": True}, "compile: was False, is True"),
        ({"vae_dtype": torch.bfloat16}, "vae_dtype: was float32, is bfloat16"),
        ({"float8": True, "float8_matmul": True}, "matmul_dtype: was same, is float8"),
        ({"tiling": tilings(512, 512)[0]}, "vae_tiling: was False, is 1x2"),
    ],
)
def test_other_numbers_are_refused_and_may_be_accepted(
    job: RenderJob, folder: RenderFolder, other: dict[str, Any], told: str
) -> None:
    with pytest.raises(ChangedError, match=told) as refused:
        settle(job, folder, replace(CPU, **other))
    assert f"avatarctl resume {folder.path} --accept-changes" in refused.value.hint
    assert events(folder) == []
    settle(job.model_copy(update={"accept_changes": True}), folder, replace(CPU, **other))
    [(kind, changes)] = [(event["event"], event["changes"]) for event in events(folder)]
    assert kind == "accepted" and told in changes
    # From now on they count, and the old ones are refused.
    settle(job, folder, replace(CPU, **other))
    with pytest.raises(ChangedError):
        settle(job, folder, CPU)
    manifest = folder.manifest() | {"avatarctl": "1", "weights": {"transformer": {"sha256": "0" * 64}}}
    assert f"; changed on the way: {', '.join(changes)}; prompt: " in line_of(manifest)


def test_another_machine_or_library_is_told_and_noted(
    job: RenderJob, folder: RenderFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("avatarctl.render.numbers.versions", lambda: {**versions(), "torch": "9.0"})
    monkeypatch.setattr("avatarctl.render.numbers._device_name", lambda _: "another one")
    settle(job, folder, CPU)
    (event,) = events(folder)
    assert event["event"] == "elsewhere"
    assert [change.split(":")[0] for change in event["changes"]] == ["device_name", "torch"]
    assert event["changes"][1].endswith("is 9.0")


@pytest.mark.parametrize("chosen", [{}, {"dtype": "float32"}])
def test_a_render_of_an_older_version_is_held_to_what_was_chosen(job: RenderJob, chosen: dict[str, str]) -> None:
    job = job.model_copy(update={"placement": PlacementSettings.model_validate(chosen)})
    folder = RenderFolder(job.folder)
    folder.path.mkdir()
    manifest = {"version": MANIFEST_VERSION, "job": json.loads(job.model_dump_json()), "libraries": versions()}
    manifest["job"]["placement"].pop("attention")  # a setting that is younger than the render
    folder.write_manifest(manifest)
    on_a_gpu = replace(CPU, dtype=torch.bfloat16)
    if chosen:
        with pytest.raises(ChangedError, match="dtype: was float32, is bfloat16"):
            settle(job, folder, on_a_gpu)
    else:
        settle(job, folder, on_a_gpu)
        assert folder.manifest()["decided"]["dtype"] == "bfloat16"


def test_a_manifest_never_says_that_changes_are_accepted(job: RenderJob) -> None:
    accepting = job.model_copy(update={"accept_changes": True})
    assert "accept_changes" not in accepting.model_dump_json()
    assert not RenderJob.model_validate_json(accepting.model_dump_json()).accept_changes


@pytest.mark.parametrize("setting", [{"dtype": "bfloat16"}, {"attention": "_native_math"}, {"vae_dtype": "bfloat16"}])
def test_a_render_is_refused_with_another_setting_and_continues_where_that_is_accepted(
    case: Case, setting: dict[str, Any]
) -> None:
    preset = case.folder / "other.yaml"
    preset.write_text(yaml.safe_dump({**yaml.safe_load((case.studio / "tiny.yaml").read_text()), **setting}))
    case.stop()
    other = ("--preset", str(preset))
    refused = case.generate(*other)
    assert refused.status == CHANGED
    (name, value), *_ = setting.items()
    assert f"{name}: was " in refused.log and f"is {value}" in refused.log
    assert "the same command with --accept-changes" in refused.log
    accepted = case.generate(*other, "--accept-changes", "--keep")
    assert accepted.status == 0, accepted.log
    assert accepted.steps()[0] > 3
    assert f"{name}: was " in accepted.log
    assert [event["changes"] for event in case.events() if event["event"] == "accepted"]
    manifest = RenderFolder(case.render).manifest()
    assert manifest["job"]["placement"][name] == value and manifest["decided"][name] == value
    assert b"changed on the way: " in case.bytes() and value is not None


def test_naming_what_auto_came_to_is_no_change(new_case: NewCase) -> None:
    expected = straight(new_case("straight"))
    case = new_case()
    case.stop()
    named = case.generate("--dtype", "float32")
    assert named.status == 0, named.log
    # The record in the video is that of the beginning.
    assert case.bytes() == expected


def test_resume_says_how_and_the_way_that_it_names_works(case: Case) -> None:
    case.stop()
    manifest = durable.unsealed(case.render / "render.json")
    assert manifest is not None
    manifest["decided"]["dtype"] = "bfloat16"  # as if it had begun on a GPU
    (case.render / "render.json").write_bytes(durable.sealed(manifest))
    refused = case.command("resume", str(case.render))
    assert refused.status == CHANGED and "dtype: was bfloat16, is float32" in refused.log
    assert f"avatarctl resume {case.render} --accept-changes" in refused.log.split("hint:")[1]
    accepted = case.command("resume", str(case.render), "--accept-changes")
    assert accepted.status == 0, accepted.log
    assert case.output.exists()
