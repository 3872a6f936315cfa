"""Tests with an interrupted render whose inputs changed: what is refused, what goes on, and what begins anew."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tiny import TINY, tiny_transformer
from workshop import Case, Server, straight

from avatarctl.networks.checkpoints import save_weights

NewCase = Callable[..., Case]
CHANGED = 7


@pytest.fixture(scope="module")
def expected(studio: Path, server: Server, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The video, rendered without interruption."""
    return straight(Case(studio, server, tmp_path_factory.mktemp("straight") / "case"))


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["-i", "{studio}/other.png"], "image ({studio}/other.png): another picture than last time"),
        (["-a", "{studio}/other.wav"], "audio ({studio}/other.wav): another recording than last time"),
        (["--steps", "3"], "steps: was 2, is 3"),
        (["--seed", "1", "--fps", "24"], "fps: was 25, is 24\n  seed: was 0, is 1"),
        (["--prompt", "A person sings."], "is A person sings."),
        (["--dtype", "bfloat16"], "dtype: was float32, is bfloat16"),
    ],
)
def test_other_inputs_are_refused_by_name_and_the_old_ones_go_on(
    case: Case, expected: bytes, flags: list[str], named: str
) -> None:
    case.stop()
    flags = [flag.format(studio=case.studio) for flag in flags]
    refused = case.generate(*flags)
    assert refused.status == CHANGED
    assert named.format(studio=case.studio) in refused.told, refused.log
    assert f"avatarctl resume {case.render}" in refused.log and "--force" in refused.log
    resumed = case.command("resume", str(case.render))
    assert resumed.status == 0, resumed.log
    assert case.bytes() == expected


@pytest.mark.parametrize("name", ["face.png", "voice.wav", "weights/transformer.safetensors"])
def test_a_file_with_other_content_is_refused_also_by_resume(
    studio: Path, server: Server, tmp_path: Path, name: str
) -> None:
    own = shutil.copytree(studio, tmp_path / "studio")
    case = Case(own, server, tmp_path / "case")
    case.stop()
    if name.startswith("weights"):
        save_weights(tiny_transformer(TINY.with_(text_len=16), seed=5), own / name, names="ours")
    else:
        shutil.copy(own / name.replace("face", "other").replace("voice", "other"), own / name)
    for refused in (case.generate(), case.command("resume", str(case.render))):
        assert refused.status == CHANGED
        assert f"{own / name}): another " in refused.log, refused.log
    forced = case.generate("--force")
    assert forced.status == 0, forced.log
    assert case.bytes() == straight(Case(own, server, tmp_path / "straight"))


@pytest.mark.parametrize(
    "flags", [["--checkpoint-every", "7"], ["--memory", "model"], ["--keep"], ["--preset", "{folder}/quiet.yaml"]]
)
def test_what_changes_no_bit_may_change(case: Case, expected: bytes, flags: list[str]) -> None:
    settings = yaml.safe_load((case.studio / "tiny.yaml").read_text())
    (case.folder / "quiet.yaml").write_text(yaml.safe_dump({**settings, "preview": False}))
    case.stop()
    attempt = case.generate(*[flag.format(folder=case.folder) for flag in flags])
    assert attempt.status == 0, attempt.log
    assert attempt.steps()[0] > 3
    assert case.bytes() == expected


@pytest.mark.long
def test_beginning_anew_with_another_picture_survives_a_kill_at_any_write(
    new_case: NewCase, studio: Path, expected: bytes
) -> None:
    other = ("-i", str(studio / "other.png"))
    wanted = straight(new_case("other"), *other)
    assert wanted != expected
    case = new_case()
    case.stop()
    kept = shutil.copytree(case.render, case.folder.with_name("kept"))
    outcomes = []
    for number in range(1, 77, 5):  # from the first file removed to the new render's second checkpoint
        shutil.rmtree(case.render)
        shutil.copytree(kept, case.render)
        assert case.generate(*other, "--force", fault="kill", at=number).status == -9
        attempt = case.generate(*other)
        outcomes.append(attempt.status)
        if attempt.status == 0:
            assert case.bytes() == wanted, f"write {number}"
            case.output.unlink()
            case.render.mkdir()
    # Refused as long as the old manifest is there; from then on it is the new render.
    assert set(outcomes) == {CHANGED, 0} and outcomes == sorted(outcomes, reverse=True)


def test_an_output_that_exists_is_not_overwritten_unasked(case: Case, expected: bytes) -> None:
    case.output.write_bytes(b"mine")
    refused = case.generate()
    assert refused.status == 2
    assert "exists already" in refused.log and "--force" in refused.log
    assert case.bytes() == b"mine" and not case.render.exists()
    forced = case.generate("--force")
    assert forced.status == 0, forced.log
    assert case.bytes() == expected


def test_a_work_folder_with_other_files_is_left_alone(case: Case) -> None:
    stranger = case.folder / "notes"
    stranger.mkdir()
    (stranger / "diary.txt").write_text("mine")
    for more in ((), ("--force",)):
        refused = case.generate("--work-dir", str(stranger), *more)
        assert refused.status == 2
        assert "diary.txt" in refused.log
        assert [path.name for path in stranger.iterdir()] == ["diary.txt"]
