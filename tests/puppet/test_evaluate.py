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
from avatarctl.puppet.dataset import EVALUATION_SEED, make_dataset
from avatarctl.puppet.draw import Identity, Pose, draw
from avatarctl.puppet.evaluate import goals_of
from avatarctl.puppet.measure import LOOK, held_out, look_distance, measure
from avatarctl.puppet.mouth import mouth_from_audio
from avatarctl.puppet.voice import EVALUATION, TRAINING, make_voice
from avatarctl.settings.render import RenderSettings

WEIGHTS = embedded_avatar() / "weights"
SHORT = ("--pairs", "2", "--minutes", "0", "--no-tables", "--device", "cpu", "--json", "--quiet")
SETTINGS = RenderSettings(size=(64, 64))
needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs espeak-ng")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("home"))
    yield running
    running.close()


@needs_espeak
def test_the_shipped_avatar_reaches_its_goals_and_is_measured_once(server: Server, tmp_path: Path) -> None:
    words = ["puppet", "evaluate", "--output", "report", "--gate", *SHORT]
    done = server.run(tmp_path, words)
    assert done.status == 0, done.log
    told = json.loads(done.log)["data"]
    assert all(goal["reached"] for goal in told["goals"]) and len(told["goals"]) == 2
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["held_out"]["pairs"] == 2 and report["held_out"]["correlation"] > 0.8
    assert "| sync: correlation" in (tmp_path / "report" / "report.md").read_text()
    assert Image.open(tmp_path / "report" / "report.png").size[0] > 800
    kept = sorted((tmp_path / "report" / "measured").iterdir())
    stamps = [path.stat().st_mtime_ns for path in kept]
    assert len(kept) == 2 and list((tmp_path / "report" / "work").iterdir()) == []
    assert server.run(tmp_path, words).status == 0
    assert [path.stat().st_mtime_ns for path in kept] == stamps, "nothing was measured again"
    kept[0].write_text(kept[0].read_text().replace("correlation", "corelation"))
    assert server.run(tmp_path, words).status == 0
    assert kept[0].stat().st_mtime_ns != stamps[0] and kept[1].stat().st_mtime_ns == stamps[1], "a damaged one is"


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
    assert "goals are missed: sync: correlation" in told["errors"][0]["message"]
    assert told["data"]["goals"][0]["reached"] is False


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--minutes", "1"], 2, "--minutes: got 1"),
        (["--lora", "none.safetensors"], 4, "got no such file: none.safetensors"),
        (["--weights", "nowhere"], 5, "nowhere: got no such folder"),
        (["--preset", "pupet"], 2, "did you mean puppet?"),
    ],
)
def test_mistakes_are_told_before_anything_is_made(
    server: Server, tmp_path: Path, words: list[str], code: int, message: str
) -> None:
    done = server.run(tmp_path, ["puppet", "evaluate", "--output", "report", *words])
    assert done.status == code and message in done.log and "Traceback" not in done.log
    assert not (tmp_path / "report").exists()


# -- What is measured -------------------------------------------------------------------------------------------------


@needs_espeak
def test_drawn_pictures_are_measured_as_perfect() -> None:
    pair = held_out(0)
    voice = make_voice(pair.seed, 5.0, pair.kind, evaluation=True)
    opening, width = mouth_from_audio(voice, 125)
    who = Identity.of(pair.seed)
    drawn = np.stack([draw(who, Pose(float(o), float(w))) for o, w in zip(opening, width, strict=True)])
    found = measure(drawn, voice, pair.seed, SETTINGS)
    assert found["correlation"] > 0.995 and found["lag"] == 0 and found["amplitude"] == pytest.approx(1, abs=0.05)
    assert found["width_correlation"] > 0.9
    assert found["colour"] < 0.5 and found["geometry_px"] < 0.1 and found["nearest_of_20_faces"] is True
    other = measure(drawn, voice, pair.seed - 1, SETTINGS)  # the pair's own face is among its twenty
    assert other["colour"] > 15 and other["nearest_of_20_faces"] is False
    late = measure(np.concatenate([drawn[:1], drawn[:1], drawn[:-2]]), voice, pair.seed, SETTINGS)
    assert late["lag"] == 2


def test_the_look_is_near_when_it_is_worn() -> None:
    seed = EVALUATION_SEED
    bare, dressed = (np.stack([draw(Identity.of(seed, look), Pose())] * 3) for look in ((), LOOK))
    assert look_distance(dressed, seed) == 0
    assert look_distance(bare, seed) > 30
    assert look_distance((bare // 2 + dressed // 2).astype(np.uint8), seed) == pytest.approx(
        look_distance(bare, seed) / 2, rel=0.05
    )


def test_goals_are_those_of_what_was_measured() -> None:
    held = {"pairs": 10, "correlation": 0.79, "largest_lag": 1, "shuffled": -0.16}
    reached = {goal.name.split(":")[0] + str(i): goal.reached for i, goal in enumerate(goals_of({"held_out": held}))}
    assert list(reached.values()) == [False, True, False]
    assert len(goals_of({"held_out": {**held, "pairs": 9}})) == 2, "of few voices some agree by chance"
    lora = {"ratio": 0.5, "correlation": 0.74}
    assert [goal.reached for goal in goals_of({"held_out": held, "lora": lora})][3:] == [True, False]
    assert not Goal("nothing", float("nan"), "at least", 0.0).reached
    assert markdown_table(("a", "b"), [(1.234, None)]) == "| a | b |\n|---|---|\n| 1.23 | – |"


def test_held_out_means_held_out() -> None:
    assert not set(EVALUATION) & set(TRAINING)
    largest_training_seed = 2**40 * 100_003 + 100_000
    assert min(held_out(number).seed for number in range(1000)) > largest_training_seed


# -- Clips of pauses and looks ----------------------------------------------------------------------------------------


@needs_espeak
def test_nobody_speaks_in_pauses(tmp_path: Path) -> None:
    make_dataset(tmp_path, 3, 9, lambda *_, **__: None, pauses=True)
    for path in tmp_path.rglob("truth.npz"):
        assert np.load(path)["opening"].max() < 0.05


@needs_espeak
def test_a_look_may_come_after_the_first_picture(tmp_path: Path) -> None:
    make_dataset(tmp_path, 1, 9, lambda *_, **__: None, look=LOOK, bare_first=True)
    first, second = (np.asarray(Image.open(next(tmp_path.rglob(f"images/frame_{i}.png")))) for i in (0, 1))
    seed = 9 * 100_003
    bare, dressed = (draw(Identity.of(seed, look), Pose()) for look in ((), LOOK))
    assert np.abs(first.astype(int) - bare).mean() < np.abs(first.astype(int) - dressed).mean()
    assert np.abs(second.astype(int) - dressed).mean() < np.abs(second.astype(int) - bare).mean()


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
