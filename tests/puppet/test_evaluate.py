"""Tests with the shipped avatar and a spoilt one: the evaluation tells them apart, keeps what it measured, and reports."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from served import Server

from avatarctl.errors import InputFileError
from avatarctl.evaluation.report import Goal, markdown_table
from avatarctl.networks.checkpoints import load_transformer, save_weights
from avatarctl.paths import embedded_avatar
from avatarctl.puppet.card import write_card
from avatarctl.puppet.folders import EVALUATION_SEED
from avatarctl.puppet.measure import held_out
from avatarctl.puppet.voice import EVALUATION, TRAINING
from avatarctl.puppet.world.identity import Identity, Pose
from avatarctl.puppet.world.measure import LOOK, look_distance
from avatarctl.puppet.world.portrait import draw

WEIGHTS = embedded_avatar() / "weights"
SHORT = ("--pairs", "2", "--minutes", "0", "--no-tables", "--device", "cpu", "--json", "--quiet")
needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs espeak-ng")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("home"))
    yield running
    running.close()


def student(folder: Path) -> str:
    """Write a student of two steps that changes nothing; return its name."""
    from avatarctl.networks.lora_formats import write_lora
    from avatarctl.networks.lora_kinds import LowRank
    from avatarctl.settings.student import STUDENT

    facts = {"version": 1, "stage": "steps", "steps": 2, "schedule": "uniform", "solver": "euler", "guidance": "none"}
    model = load_transformer(WEIGHTS / "transformer.safetensors")
    factors = {"blocks.0.attn1.to_q": LowRank(torch.zeros(1, 128), torch.zeros(128, 1), 1.0)}
    write_lora(folder / "two.safetensors", factors, {}, "diffusers", model, {STUDENT: json.dumps(facts)})
    return "two.safetensors"


@needs_espeak
def test_lips_of_the_shipped_avatar_follow_and_are_measured_once(server: Server, tmp_path: Path) -> None:
    words = ["puppet", "evaluate", "--output", "report", *SHORT]
    done = server.run(tmp_path, words)
    assert done.status == 0, done.log
    told = json.loads(done.log)["data"]
    # Two pairs of five seconds tell little of blinks, onsets, vowels, and closures that nobody asked for.
    reached = {goal["name"] for goal in told["goals"] if goal["reached"]}
    sure = ("mouth: correlation of the opening", "mouth: closures at m b p that are found")
    assert len(told["goals"]) == 11 and reached >= {*sure, "first picture: saturation, of the reference's"}
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["held_out"]["pairs"] == 2 and report["held_out"]["correlation"] > 0.8
    assert "| mouth: correlation" in (tmp_path / "report" / "report.md").read_text()
    assert Image.open(tmp_path / "report" / "report.png").size[0] > 800
    kept = sorted((tmp_path / "report" / "measured").iterdir())
    stamps = [path.stat().st_mtime_ns for path in kept]
    assert len(kept) == 2 and list((tmp_path / "report" / "work").iterdir()) == []
    assert server.run(tmp_path, [*words, "--student", student(tmp_path)]).status == 0
    assert [path.stat().st_mtime_ns for path in kept] == stamps, "nothing was measured again"
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["held_out"]["passes"] == 8 and report["students"]["student of 2 steps"]["passes"] == 2
    table = (tmp_path / "report" / "report.md").read_text()
    assert "| as the preset has it | 8 |" in table and "| student of 2 steps | 2 |" in table
    kept[0].write_text(kept[0].read_text().replace("correlation", "corelation"))
    assert server.run(tmp_path, words).status == 0
    assert kept[0].stat().st_mtime_ns != stamps[0] and kept[1].stat().st_mtime_ns == stamps[1], "a damaged one is"


@pytest.mark.long
@needs_espeak
def test_the_gate_closes_before_lips_that_follow_nothing(server: Server, tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    shutil.copytree(WEIGHTS, weights)
    model = load_transformer(weights / "transformer.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "vocal" in name:
                parameter.zero_()
    save_weights(model, weights / "transformer.safetensors")
    done = server.run(tmp_path, ["puppet", "evaluate", "--output", "report", "--weights", "weights", "--gate", *SHORT])
    assert done.status == 9, done.log
    told, _ = json.JSONDecoder().raw_decode(done.log[done.log.index("{") :])
    assert "goals are missed: mouth: correlation" in told["errors"][0]["message"]
    assert told["data"]["goals"][0]["reached"] is False


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--minutes", "1"], 2, "--minutes: got 1"),
        (["--lora", "none.safetensors"], 4, "got no such file: none.safetensors"),
        (["--lora", "two.safetensors"], 2, "--student two.safetensors measures it"),
        (["--student", "none.safetensors"], 4, "--student: got no such file: none.safetensors"),
        (["--student", "bare.safetensors"], 2, "got bare.safetensors, which was not distilled, expected a student"),
        (["--weights", "nowhere"], 5, "nowhere: got no such folder"),
        (["--preset", "pupet"], 2, "did you mean puppet?"),
    ],
)
def test_mistakes_are_told_before_anything_is_made(
    server: Server, tmp_path: Path, words: list[str], code: int, message: str
) -> None:
    student(tmp_path)
    shutil.copy(WEIGHTS / "speech_encoder.safetensors", tmp_path / "bare.safetensors")
    done = server.run(tmp_path, ["puppet", "evaluate", "--output", "report", *words])
    assert done.status == code and message in done.log and "Traceback" not in done.log
    assert not (tmp_path / "report").exists()


# -- What is measured -------------------------------------------------------------------------------------------------


def test_the_look_is_near_when_it_is_worn() -> None:
    who = Identity.of(EVALUATION_SEED)
    bare, dressed = (np.stack([draw(each, Pose())] * 3) for each in (who, who.with_look(*LOOK)))
    assert look_distance(dressed, who) == 0
    assert look_distance(bare, who) > 30
    assert look_distance((bare // 2 + dressed // 2).astype(np.uint8), who) == pytest.approx(
        look_distance(bare, who) / 2, rel=0.05
    )


def test_no_number_reaches_no_goal() -> None:
    assert not Goal("nothing", float("nan"), "at least", 0.0).reached
    assert markdown_table(("a", "b"), [(1.234, None)]) == "| a | b |\n|---|---|\n| 1.23 | – |"


def test_held_out_means_held_out() -> None:
    assert not set(EVALUATION) & set(TRAINING)
    largest_training_seed = 2**40 * 100_003 + 100_000
    assert min(held_out(number).seed for number in range(1000)) > largest_training_seed


def test_a_card_needs_a_report(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    shutil.copytree(WEIGHTS, weights)
    (tmp_path / "report.md").write_text("| goal | measured |")
    with pytest.raises(InputFileError, match=r"got no report\.png"):
        write_card(weights, tmp_path)
    (tmp_path / "report.png").write_bytes(b"curves")
    text = write_card(weights, tmp_path, "Trained on a rainy day.").read_text()
    assert "| goal | measured |" in text and "rainy day" in text and "| transformer | " in text
    assert (weights / "report.png").read_bytes() == b"curves" and "](report.png)" in text
