"""Tests with renders by a student: its file says how, clashes are told, and its bits are those of any other render."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from served import Server
from typer.testing import CliRunner
from workshop import PRESET, Case, straight

from avatarctl import cli
from avatarctl.networks.checkpoints import load_transformer
from avatarctl.networks.lora_formats import write_lora
from avatarctl.networks.lora_kinds import LowRank
from avatarctl.settings.jobs import render_job
from avatarctl.settings.student import STUDENT, as_students_ask, in_words, notes_of, student_of, students
from avatarctl.weights import checksum

NewCase = Callable[..., Case]
FACTS: dict[str, Any] = {
    "version": 1, "stage": "steps", "steps": 3, "schedule": "uniform", "solver": "euler", "shift": 4.0, "guidance": "none",
    "window": None, "overlap": None, "teacher": {"passes": [], "interval": None},
}  # fmt: skip


def write_student(path: Path, transformer: Path, **changes: Any) -> Path:
    """Write a LoRA with random factors that says that it was distilled on a transformer."""
    model = load_transformer(transformer)
    generator = torch.Generator().manual_seed(0)
    layers = [f"blocks.{i}.attn1.to_{name}" for i in range(2) for name in "qkv"]
    factors = {
        name: LowRank(torch.randn(2, 48, generator=generator), 0.1 * torch.randn(48, 2, generator=generator), 2.0)
        for name in layers
    }
    facts = {**FACTS, **changes, "teacher": {**FACTS["teacher"], "base_sha256": checksum(transformer)}}
    return write_lora(path, factors, {}, "diffusers", model, {STUDENT: json.dumps(facts)})


@pytest.fixture(scope="module")
def turbo(studio: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student of the studio's transformer, and a preset that says nothing of steps and guidance."""
    kept = [line for line in PRESET.splitlines() if line.split(":")[0] != "steps"]
    (studio / "open.yaml").write_text("\n".join(kept) + "\n")
    return write_student(
        tmp_path_factory.mktemp("loras") / "turbo.safetensors", studio / "weights" / "transformer.safetensors"
    )


def flags(case: Case, turbo: Path, *more: str) -> list[str]:
    return ["--preset", str(case.studio / "open.yaml"), "--lora", str(turbo), "--no-metadata", *more]


def told_of(case: Case, *more: str) -> tuple[dict[str, Any], str]:
    """Return what a command that begins nothing says: the data of its JSON, and what stands on stderr."""
    argv = [word for word in case.argv(*more) if word not in ("--progress", "json")]
    done = CliRunner().invoke(cli.app, [*argv, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)["data"], done.stderr


def test_a_student_s_file_says_how_it_is_rendered(case: Case, turbo: Path) -> None:
    data, told = told_of(case, *flags(case, turbo, "--dry-run"))
    assert data["passes"] == data["window_steps"] == 3 * data["windows"]
    assert [(each["file"], each["steps"], each["scale"]) for each in data["students"]] == [
        ("turbo.safetensors", 3, 1.0)
    ]
    assert "distilled" not in told
    told = case.generate(*flags(case, turbo, "--dry-run")).told
    assert "turbo.safetensors, distilled: 3 euler steps, schedule uniform, shift 4, guidance none" in told
    shown, _ = told_of(case, *flags(case, turbo, "--show-settings"))
    sources = {name: shown["settings"][name]["source"] for name in ("steps", "guidance", "schedule")}
    assert sources == dict.fromkeys(("steps", "guidance", "schedule"), "distilled LoRA turbo.safetensors")


def test_what_the_user_says_wins_and_clashes_are_told(case: Case, turbo: Path) -> None:
    _, told = told_of(case, *flags(case, turbo, "--guidance", "cfg", "--steps", "5", "--dry-run"))
    twice = "turbo.safetensors was distilled for guidance none, and guidance is cfg; it would be guided twice"
    assert f"warning: {twice}" in told
    assert "warning: turbo.safetensors was distilled for steps 3, and steps is 5" in told
    _, told = told_of(case, *flags(case, Path(f"{turbo}:0.5"), "--dry-run"))
    assert "warning: turbo.safetensors at 0.5: the guidance that it stands for is weaker" in told


def test_a_shipped_preset_is_not_the_user_s_word_but_a_preset_of_his_own_is(turbo: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(f"extends: quality\nsteps: 11\nlora: {turbo}\n")
    for preset, given, steps in (
        ("quality", {"lora": str(turbo)}, 3),
        (str(mine), {}, 11),
        (str(mine), {"steps": 7}, 7),
    ):
        job = render_job(Path("me.jpg"), Path("a.wav"), Path("v.mp4"), preset, given)
        assert (job.render.steps, job.render.guidance, job.render.solver) == (steps, "none", "euler")
        assert job.render.guidance_interval is None and job.render.overlap == 10, "what a student doesn't say stays"


def test_notes(turbo: Path, studio: Path, tmp_path: Path) -> None:
    found = students((str(turbo),))
    settings = {"steps": 3, "schedule": "uniform", "shift": 4.0, "solver": "euler", "guidance": "none", "window": 3}
    own = checksum(studio / "weights" / "transformer.safetensors")
    assert notes_of(found, settings, own) == [] == notes_of(found, settings, None)
    [another] = notes_of(found, settings, "f" * 64)
    assert another.startswith(
        f"turbo.safetensors was distilled on another transformer (sha256 {own[:12]}, this one is fff"
    )
    assert "both distilled" in notes_of(found * 2, settings, own)[-1]
    path, scale, facts = found[0]
    person = {"name": "person.safetensors", "sha256": "a" * 64, "scale": 0.8}
    of_person = [(path, scale, {**facts, "teacher": {**facts["teacher"], "loras": [person]}})]
    assert notes_of(of_person, settings, own, {"a" * 64: 0.8}) == []
    assert notes_of(of_person, settings, own, {}) == [
        "turbo.safetensors was distilled over the LoRA person.safetensors at 0.8, which this render lacks: "
        "--lora person.safetensors:0.8"
    ]
    assert notes_of(of_person, settings, own, {"a" * 64: 0.5}) == [
        "turbo.safetensors was distilled over person.safetensors at 0.8, and it is at 0.5"
    ]
    bare = {name: value for name, value in facts.items() if name != "shift"} | {"teacher": None}
    assert notes_of([(path, scale, bare)], settings, own, {}) == []
    assert in_words(path, bare).endswith("schedule uniform, guidance none")
    assert student_of(studio / "weights" / "vae.safetensors") is None and student_of(tmp_path / "none") is None
    values, places = as_students_ask({"lora": "no:such:file", "steps": 4}, {"steps": "--steps"})
    assert (values, places) == ({"lora": "no:such:file", "steps": 4}, {"steps": "--steps"})


def test_a_student_of_any_number_of_steps_leaves_them_as_they_are(turbo: Path, studio: Path, tmp_path: Path) -> None:
    transformer = studio / "weights" / "transformer.safetensors"
    path = write_student(tmp_path / "any.safetensors", transformer, stage="guidance", steps=None)
    job = render_job(Path("me.jpg"), Path("a.wav"), Path("v.mp4"), "quality", {"lora": str(path)})
    assert (job.render.steps, job.render.guidance) == (25, "none")


def test_killed_in_step_order_and_by_two_processes_its_bits_are_the_same(
    new_case: NewCase, server: Server, turbo: Path
) -> None:
    one = new_case("one", audio="long.wav")
    wanted = straight(one, *flags(one, turbo))
    killed = new_case("killed", audio="long.wav")
    killed.stop(*flags(killed, turbo), steps=7)
    assert straight(killed, *flags(killed, turbo)) == wanted
    (one.studio / "steps-open.yaml").write_text((one.studio / "open.yaml").read_text() + "order: steps\n")
    ordered = new_case("ordered", audio="long.wav")
    assert straight(ordered, *flags(ordered, turbo, "--preset", str(one.studio / "steps-open.yaml"))) == wanted
    two = new_case("two", audio="long.wav")
    attempts = two.together(2, *flags(two, turbo))
    assert [attempt.status for attempt in attempts] == [0, 0], attempts[0].told
    assert two.bytes() == wanted
    plain = new_case("plain", audio="long.wav")
    assert (
        straight(
            plain, "--preset", str(one.studio / "open.yaml"), "--steps", "3", "--guidance", "none", "--no-metadata"
        )
        != wanted
    )
