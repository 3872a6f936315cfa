"""Tests with students: the teacher is the bare network, what they learn from is drawn by step, and runs resume to the bit."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from accelerate.utils import DistributedType
from safetensors import safe_open
from tiny import tiny_transformer
from training.conftest import SMALL, make_cache, random_sample
from training.test_loop import same_weights, stop_after, without_times

from avatarctl.commands.shared import parsed_settings
from avatarctl.errors import AvatarError, ChangedError, Interrupted, QualityError, UsageError
from avatarctl.networks.attach import attach, lora_layers
from avatarctl.networks.checkpoints import load_transformer
from avatarctl.networks.float8 import to_float8
from avatarctl.networks.lora_switch import lora_off, lora_taken_out
from avatarctl.sampling import guidance
from avatarctl.sampling.denoise import schedule
from avatarctl.sampling.guidance import CONDITIONAL, Inputs
from avatarctl.settings.check import make
from avatarctl.settings.presets import load
from avatarctl.settings.train import TrainJob, TrainSettings
from avatarctl.training import distill, distill_about, train
from avatarctl.training.distill import by_segment
from avatarctl.training.distill_about import check_students_run, student_facts
from avatarctl.training.distill_cost import passes_of_state
from avatarctl.training.distill_draws import draw_path
from avatarctl.training.distill_teacher import Scene, Teacher, level, time_of, walk
from avatarctl.training.log import read
from avatarctl.training.loss import Batch
from avatarctl.training.state import find_samples

Maker = Callable[..., TrainJob]
GROUPS = {"attention": "lora", "feed_forward": "lora", "audio": "lora", "embeddings": "lora", "norms": "frozen"}
NONE = dict.fromkeys(("drop_audio", "drop_tokens", "drop_text", "clip_audio", "face_probability"), 0.0)
STUDENT: dict[str, Any] = {
    **SMALL,
    **GROUPS,
    **NONE,
    "rank": 4,
    "alpha": 4.0,
    "whole_probability": 1.0,
    "teacher_audio_scale": 3.0,
    "teacher_text_scale": 1.5,
    "export_dtype": "float32",
    "gradient_checkpointing": False,
}
STEPS = {"distill": "steps", "distill_steps": 4, "teacher_evaluations": 2, "batch_size": 2, "accumulate": 2}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of five samples of one size."""
    samples = [random_sample(f"clip{i}-0") for i in range(5)]
    return make_cache(tmp_path_factory.mktemp("clips") / "cache", samples)


@pytest.fixture
def student(clips: Path, base: Path, tmp_path: Path) -> Maker:
    """Return the maker of a small student's job."""

    def of(name: str = "run", **changes: Any) -> TrainJob:
        settings = TrainSettings(**{"weights": base, **STUDENT, **changes})
        return TrainJob(data=clips, output=tmp_path / name, train=settings)

    return of


def batch_of(rows: int, seed: int = 0) -> Batch:
    """Return samples with captions of their own lengths of latents."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    mask = torch.ones(rows, 3, 4, 6)
    return Batch(
        tuple(f"k{row}" for row in range(rows)), draw(rows, 16, 3, 4, 6), draw(rows, 20, 3, 4, 6), draw(rows, 17, 20),
        draw(rows, 5, 24), draw(4, 24), draw(rows, 17, 16), mask, mask, torch.ones(rows, 3),
    )  # fmt: skip


def with_lora(float8: bool = False, kind: str = "lora") -> Any:
    """Return a tiny transformer with a LoRA that changes it."""
    model = tiny_transformer()
    attach(model, {**GROUPS, "norms": "frozen"}, 4, 4.0, 0.0, kind)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data + 0.3 * torch.randn(parameter.shape, generator=generator)
    if float8:
        to_float8(model)
    return model.train()


# -- The teacher --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ahead", "kind"), [(True, "lora"), (False, "lora"), (True, "dora"), (True, "lokr"), (True, "loha")]
)
def test_the_teacher_is_the_bare_network_to_the_bit(ahead: bool, kind: str) -> None:
    batch, model, bare = batch_of(2), with_lora(kind=kind), tiny_transformer()
    noise, sigma = batch.latents, torch.tensor([1.0, 0.4])
    with torch.no_grad():
        wanted, _ = Scene(bare, batch, ahead).predict(noise, sigma, CONDITIONAL)
        student, _ = Scene(model, batch, ahead).predict(noise, sigma, CONDITIONAL)
        for switch in (lora_off, lora_taken_out):
            with switch(model):
                assert torch.equal(Scene(model, batch, ahead).predict(noise, sigma, CONDITIONAL)[0], wanted)
        again, _ = Scene(model, batch, ahead).predict(noise, sigma, CONDITIONAL)
    assert torch.equal(again, student) and not torch.allclose(student, wanted)


def test_of_a_float8_base_it_is_the_float8_network() -> None:
    batch, model, bare = batch_of(1), with_lora(float8=True), tiny_transformer().requires_grad_(False)
    to_float8(bare)
    with torch.no_grad(), lora_off(model):
        found, _ = Scene(model, batch, True).predict(batch.latents, torch.tensor([0.5]), CONDITIONAL)
        wanted, _ = Scene(bare, batch, True).predict(batch.latents, torch.tensor([0.5]), CONDITIONAL)
    # Layers outside the blocks are narrow in neither.
    assert torch.equal(found, wanted)


def test_the_switch_is_kept_by_those_inside_it_and_after_errors() -> None:
    model = with_lora()
    trains = [name for name, parameter in model.named_parameters() if parameter.requires_grad]

    def off() -> set[bool]:
        return {layer.disable_adapters for layer in lora_layers(model).values()}

    with lora_off(model):
        with lora_off(model):
            assert off() == {True}
        assert off() == {True}  # an inner switch that put it on made the teacher the student
        with pytest.raises(RuntimeError, match="lost"), lora_off(model):
            raise RuntimeError("lost")
        assert off() == {True}
        assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == trains
    assert off() == {False}


def test_guidance_is_that_of_generation_and_ends_at_its_interval() -> None:
    batch, model = batch_of(3), tiny_transformer()
    scheme, sigma = guidance.cfg(3.0, 1.5), torch.tensor([0.95, 0.9, 0.2])
    with torch.no_grad():
        found, conditional = Teacher(scheme, (0.0, 0.9), 3, 5.0).guided(Scene(model, batch, True), batch.latents, sigma)
        parts = {inputs: Scene(model, batch, True).predict(batch.latents, sigma, inputs)[0] for inputs in scheme}
    wanted = guidance.combine(scheme, parts)
    assert torch.equal(found[0], parts[CONDITIONAL][0]) and torch.equal(conditional, parts[CONDITIONAL])
    torch.testing.assert_close(found[1:], wanted[1:], rtol=0, atol=1e-5)
    assert (wanted[0] - found[0]).abs().max() > 1e-2
    without = guidance.scheme(
        [(Inputs("negative", "window", "zero"), -1.0), (Inputs("negative", "window", "adapter"), 2.0)]
    )
    with torch.no_grad():  # a table without the conditional pass is measured beside it
        found, conditional = Teacher(without, None, 3, 5.0).guided(Scene(model, batch, True), batch.latents, sigma)
    assert torch.equal(conditional, parts[CONDITIONAL])
    torch.testing.assert_close(found, guidance.combine(without, {**parts}), rtol=0, atol=1e-5)


def test_the_segment_is_walked_as_the_sampler_walks() -> None:
    """A straight render with solver ab2 over the same levels ends where the segment does."""

    def field(x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        velocity = x * sigma.view(-1, 1, 1, 1, 1) + torch.sin(3 * x)
        return velocity, velocity

    x = torch.randn(2, 1, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    velocity, first = walk(field, x, torch.tensor([1.0, 0.5]), torch.tensor([0.5, 0.0]), 4, 5.0)
    grid = schedule(8, 5.0, "uniform")
    for row, start in ((0, 0), (1, 4)):
        state, before = x[row : row + 1], None
        for step in range(start, start + 4):
            now, _ = field(state, grid.sigmas[step].view(1))
            state, before = grid.step(state, now, step, before), now
        reached = x[row] + (grid.sigmas[start + 4] - grid.sigmas[start]) * velocity[row]
        torch.testing.assert_close(reached, state[0], rtol=0, atol=2e-5)
    torch.testing.assert_close(first, field(x, level(torch.tensor([1.0, 0.5]), 5.0))[0])
    times = torch.tensor([1.0, 0.7, 0.1])
    torch.testing.assert_close(time_of(level(times, 5.0), 5.0), times)


# -- What is drawn ------------------------------------------------------------------------------------------------------


def test_paths_are_drawn_by_seed_step_and_number() -> None:
    settings = TrainSettings(**{**STUDENT, **STEPS, "distill_steps": 8})
    shape = (2, 3, 4, 5)
    first = draw_path(settings, 3, 1, 2, 4, shape)
    assert torch.equal(first.noise, draw_path(settings, 3, 1, 2, 4, shape).noise)
    for other in ((4, 1), (3, 0)):
        assert not torch.equal(first.noise, draw_path(settings, *other, 2, 4, shape).noise)
    assert not torch.equal(first.noise[0], first.noise[1])
    for step in range(50):  # one state out of each quarter of the segments
        assert [pick // 2 for pick in draw_path(settings, step, 0, 1, 4, shape).picks] == [0, 1, 2, 3]
    half = settings.model_copy(update={"own_states": 0.5})
    assert 30 < sum(draw_path(half, step, 0, 1, 4, shape).own for step in range(100)) < 70
    alone = settings.model_copy(update={"distill": "guidance"})
    assert not draw_path(alone, 0, 0, 1, 4, shape).own
    assert {draw_path(alone, step, 0, 1, 4, shape).steps for step in range(99)} == {6, 7, 8, 9, 10, 11}


def test_cost_is_counted_as_the_study_counts_it() -> None:
    settings = make(TrainSettings, {**load("distill-1.3b", "lora").values, "stages": (), "distill": "steps"})
    student, teacher, path = passes_of_state(settings.model_copy(update={"teacher_interval": None}))
    assert (student, teacher, path) == (4, 9, 1.75)
    late = settings.model_copy(update={"teacher_interval": (0.0, 0.9)})
    assert passes_of_state(late)[1] < 7  # guided at 5 of 8 segments, of three passes each


def test_errors_are_noted_by_segment() -> None:
    found = by_segment([(0, 1.0, 2.0), (1, 3.0, 4.0), (0, 2.0, 2.0), (3, 1.0, 0.0)])
    assert found == {"err_base": 7 / 8, "err_base_1": 3 / 4, "err_base_2": 3 / 4}


# -- Runs ---------------------------------------------------------------------------------------------------------------


def test_a_student_of_guidance_learns_it(student: Maker) -> None:
    made = student(distill="guidance", steps=60, batch_size=4, learning_rate=1e-2, rank=16, alpha=16.0, stratify=True)
    train(made)
    rows = [row for row in read(made.output) if "err_base" in row]
    mean = sum(row["err_base"] for row in rows[-20:]) / 20
    assert rows[0]["err_base"] == pytest.approx(1, abs=1e-3), "an untrained student is the conditional pass"
    assert mean <= 0.6
    assert {"err_base_1", "err_base_4"} <= set().union(*rows)


@pytest.mark.parametrize(
    "how", [{"distill": "guidance", "batch_size": 2, "own_states": 0.5}, STEPS, {**STEPS, "rollout_states": 2}]
)
def test_a_resumed_run_is_the_straight_one(student: Maker, how: dict[str, Any]) -> None:
    straight = student("straight", **how, steps=5, holdout=1, holdout_every=2, ema=0.9, log_every=1)
    train(straight)
    resumed = student("resumed", **how, steps=5, holdout=1, holdout_every=2, ema=0.9, log_every=1)
    with pytest.raises(Interrupted):
        train(resumed, stop_after(resumed, 2))
    train(resumed)
    assert same_weights(straight.output / "lora.safetensors", resumed.output / "lora.safetensors")
    assert without_times(straight.output) == without_times(resumed.output)
    held = [row for row in read(straight.output) if "held_out_err_base" in row]
    assert [row["step"] for row in held] == [0, 2, 4, 5]


def test_checkpointing_and_a_float8_base_train_too(student: Maker) -> None:
    plain = student("plain", **STEPS, steps=3)
    train(plain)
    checkpointed = student("checkpointed", **STEPS, steps=3, gradient_checkpointing=True)
    train(checkpointed)
    losses = [[row["loss"] for row in read(each.output) if "loss" in row] for each in (plain, checkpointed)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    narrow = student("narrow", **STEPS, steps=3, base_dtype="float8", dtype="bfloat16")
    train(narrow)
    assert all(math.isfinite(row["loss"]) for row in read(narrow.output) if "loss" in row)
    swapped = student("swapped", **STEPS, steps=3, gradient_checkpointing=True, block_swap=2)
    train(swapped)
    assert read(swapped.output)[-1]["loss"] == pytest.approx(read(checkpointed.output)[-1]["loss"], rel=1e-4)


def test_a_path_is_walked_once_a_step(student: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    walked: list[tuple[int, int, int]] = []
    walk_it = distill.Distiller._walk

    def count(self: Any, batch: Batch, noise: torch.Tensor, steps: int, last: int) -> list[torch.Tensor]:
        walked.append((self.state.step, len(batch.keys), last))
        return walk_it(self, batch, noise, steps, last)

    monkeypatch.setattr(distill.Distiller, "_walk", count)
    train(student(**{**STEPS, "accumulate": 4}, steps=2))
    assert [(step, clips) for step, clips, _ in walked] == [(0, 1), (1, 1)]
    assert all(last == 3 for _, _, last in walked), "up to the last state that is learnt from"
    walked.clear()
    train(student("two", **{**STEPS, "accumulate": 4}, rollout_states=4, steps=1))
    assert [(step, clips) for step, clips, _ in walked] == [(0, 1), (0, 1)]


def test_a_teacher_that_is_none_ends_the_run_before_it_is_saved(
    student: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def __init__(self, _: Any) -> None: ...
        def __enter__(self) -> None: ...
        def __exit__(self, *_: Any) -> None: ...

    made = student(distill="guidance", steps=4, checkpoint_every=2)
    monkeypatch.setattr(distill, "lora_off", Broken)
    with pytest.raises(QualityError, match="step 2: the teacher is not the network that the run began with"):
        train(made)
    assert not list(made.output.glob("checkpoints/step-*"))


# -- Settings and files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention": "full"}, "attention: got full with distill"),
        ({"norms": "full"}, "norms: got full with distill"),
        ({"dropout": 0.1}, "dropout: got 0.1 with distill"),
        ({"drop_audio": 0.1, "drop_text": 0.1}, "drop_audio: got 0.1 with distill, expected 0, as of drop_text"),
        ({"clip_audio": 0.3}, "clip_audio: got 0.3 with distill"),
        ({"compile": True}, "compile: got true with distill"),
        ({"teacher_guidance": "native"}, "teacher_guidance: got native"),
        ({"teacher_guidance": "none"}, "teacher_guidance: got none with distill guidance"),
        ({"teacher_audio_scale": 1.0, "teacher_text_scale": 1.0}, "teacher_guidance: got a single conditional pass"),
        (
            {"stages": [{"distill": "guidance"}, {"distill": "steps"}], "lora_kind": "dora"},
            "lora_kind: got dora with stages",
        ),
        ({"teacher_interval": (0.9, 0.1)}, "teacher_interval: got"),
        ({**STEPS, "rollout_states": 3}, "rollout_states: got 3 with a batch_size of 2"),
        ({**STEPS, "rollout_states": 8}, "accumulate: got 2 passes of 2"),
        (dict.fromkeys(GROUPS, "frozen"), "groups: got everything frozen"),
    ],
)
def test_what_can_t_be_distilled_is_refused(base: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(TrainSettings, {"weights": base, **STUDENT, "distill": "guidance", **changes})


def test_another_teacher_is_refused_on_resume(student: Maker) -> None:
    train(student(distill="guidance", steps=1))
    with pytest.raises(ChangedError, match=r"teacher_audio_scale: was 3\.0, is 5\.0"):
        train(student(distill="guidance", steps=2, teacher_audio_scale=5.0))
    train(student(distill="guidance", steps=2, learning_rate=1e-4))


def test_pictures_are_refused(student: Maker, tmp_path: Path) -> None:
    samples = [random_sample("clip0-0"), random_sample("picture0-0")]
    del samples[1].tensors["speech"]  # type: ignore[attr-defined]
    made = student(distill="guidance").model_copy(update={"data": make_cache(tmp_path / "mixed", samples)})
    with pytest.raises(AvatarError, match="distill: got pictures among the samples") as caught:
        train(made)
    # The hint does what it says, also where a picture would be held out.
    flag = shlex.split(caught.value.hint.partition(": ")[2])
    assert flag[0] == "--set"
    repeats = parsed_settings([flag[1]], {}, "")["repeats"]
    for changes in ({}, {"holdout": 1}):
        assert train(made.model_copy(update={
            "output": tmp_path / f"without-{len(changes)}",
            "train": TrainSettings(**{**made.train.model_dump(), "repeats": repeats, "steps": 1}),
        })) is not None  # fmt: skip


@pytest.mark.parametrize("kind", [DistributedType.FSDP, DistributedType.DEEPSPEED])
def test_spread_weights_are_refused(student: Maker, kind: DistributedType) -> None:
    made = student(distill="guidance")
    spread: Any = SimpleNamespace(distributed_type=kind)
    with pytest.raises(UsageError, match="got weights or states spread over processes") as caught:
        check_students_run(made, find_samples(made), spread)
    assert "avatarctl presets copy several-gpus" in caught.value.hint


def test_a_held_out_picture_is_refused_too(student: Maker, tmp_path: Path) -> None:
    samples = [*(random_sample(f"clip{i}-0") for i in range(3)), random_sample("picture0-0")]
    del samples[3].tensors["speech"]  # type: ignore[attr-defined]
    cache = make_cache(tmp_path / "mixed", samples)
    found = 0
    for holdout in (1, 2, 3):
        made = student(f"run{holdout}", distill="guidance", holdout=holdout).model_copy(update={"data": cache})
        found += any("speech" not in entry.shapes for entry in find_samples(made).held_out)
        with pytest.raises(UsageError, match="got pictures among the samples"):
            train(made)
    assert found, "at one of these numbers it is held out"


def test_the_file_tells_how_it_is_rendered_and_who_taught_it(student: Maker, base: Path) -> None:
    train(student("person", steps=2, distill="none"))
    made = student(**STEPS, steps=1, teacher_interval=(0.0, 0.9), teacher_lora=(f"{student('person').output}:0.5",))
    train(made)
    with safe_open(made.output / "lora.safetensors", "pt") as file:
        facts = json.loads(file.metadata()["avatarctl.distilled"])
    teacher = facts.pop("teacher")
    assert facts == {
        "version": 1, "stage": "steps", "steps": 4, "schedule": "uniform", "solver": "euler", "shift": 5.0,
        "guidance": "none", "window": 3, "overlap": None,
    }  # fmt: skip
    assert [row["weight"] for row in teacher["passes"]] == [-2.0, 1.5, 1.5]
    assert (teacher["interval"], teacher["solver"], teacher["evaluations"]) == ([0.0, 0.9], "ab2", 2)
    [lora] = teacher["loras"]
    assert (lora["name"], lora["scale"]) == ("lora.safetensors", 0.5) and "/" not in json.dumps(teacher)
    manifest = json.loads((made.output / "run.json").read_text())
    assert manifest["base"]["transformer"]["sha256"] == teacher["base_sha256"]
    assert manifest["base"]["teacher_lora 1"]["sha256"] == lora["sha256"]
    # Whatever became of that file since: the run says who taught.
    (student("person").output / "lora.safetensors").unlink()
    assert student_facts(made, find_samples(made), manifest["base"])["teacher"]["loras"] == [lora]
    for null_text, told in (("negative", "worse"), ("empty", "")):
        asked = made.model_copy(update={"train": made.train.model_copy(update={"null_text": null_text})})
        with mock.patch.object(distill_about, "read_about", lambda _: {"settings": {"negative_prompt": "worse"}}):
            facts = student_facts(asked, find_samples(asked), manifest["base"])
        assert facts["teacher"]["negative_prompt"] == told


def test_the_teacher_of_a_person_s_student_is_the_base_with_the_person(student: Maker, base: Path) -> None:
    from avatarctl.networks.adapters import merge_lora
    from avatarctl.training.model import make_model

    person = student("person", steps=3, distill="none")
    train(person)
    settings = student(**STEPS, teacher_lora=(str(person.output),)).train
    model, _ = make_model(settings, {**_shapes(), "speech": (17, 16)})
    merged = load_transformer(base, dtype=None).eval()
    merge_lora(merged, person.output / "lora.safetensors")
    batch = batch_of(1)
    with torch.no_grad(), lora_off(model):
        found, _ = Scene(model, batch, True).predict(batch.latents, torch.tensor([0.5]), CONDITIONAL)
        wanted, _ = Scene(merged, batch, True).predict(batch.latents, torch.tensor([0.5]), CONDITIONAL)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def _shapes() -> dict[str, tuple[int, ...]]:
    return {"latents": (16, 3, 4, 6), "condition": (20, 3, 4, 6), "text": (5, 24), "image_tokens": (17, 20)}
