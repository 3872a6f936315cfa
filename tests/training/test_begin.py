"""Tests with where a run begins: Wan2.1 without audio layers, a LoRA, or random weights, and what the result is then."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import TINY, tiny_inputs, tiny_transformer
from training.test_distill import STUDENT
from training.test_loop import LORA as LORA_SETTINGS
from training.test_loop import losses

from avatarctl.commands.stages import refuse_of_stages
from avatarctl.errors import UsageError, WeightsError
from avatarctl.networks.adapters import load_merged, merge_lora
from avatarctl.networks.checkpoints import load_transformer, released_state
from avatarctl.networks.names import is_audio
from avatarctl.networks.weight_dims import has_audio, transformer_dims
from avatarctl.settings.check import make
from avatarctl.settings.effects import refuse_without_effect
from avatarctl.settings.presets import find, resolve
from avatarctl.settings.train import TrainJob, TrainSettings
from avatarctl.training import train
from avatarctl.training.model import make_model
from avatarctl.training.samples import Samples

Maker = Callable[..., TrainJob]
LORA = {**LORA_SETTINGS, "export_dtype": "float32"}  # so that files hold what was trained to the last bit
DIMS = {"dims": json.dumps(TINY.to_json()), "network": "transformer"}


@pytest.fixture
def wan(tmp_path: Path) -> Path:
    """A transformer without audio layers, under released names, as Wan2.1's are."""
    released = released_state(tiny_transformer())
    bare = {name: tensor.contiguous() for name, tensor in released.items() if "vocal" not in name}
    save_file(bare, tmp_path / "wan.safetensors", DIMS)
    return tmp_path / "wan.safetensors"


def model_of(job: TrainJob) -> tuple[Any, dict[str, torch.Tensor]]:
    samples = Samples(job.data, job.train, torch.zeros(4, 24))
    return make_model(job.train, samples.shapes())


# -- Without audio layers ---------------------------------------------------------------------------------------------


def test_audio_layers_begin_at_zero_and_are_told(job: Maker, wan: Path, capfd: pytest.CaptureFixture[str]) -> None:
    made = job(weights=wan, steps=3)
    model, _ = model_of(made)
    for name, parameter in model.named_parameters():
        if name.endswith(("to_k_vocal.weight", "to_v_vocal.weight")):
            assert not parameter.any()
    assert model.vocal_projector.proj_out.weight.any()
    again, _ = model_of(made)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    # No voice is heard yet: the first picture is the base's whatever is said.
    inputs = tiny_inputs()
    with torch.no_grad():
        first, second = (model.eval()(**{**inputs, "audio_states": torch.randn(1, 41, 16)}).sample for _ in range(2))
    assert torch.equal(first, second)
    done = train(made)
    assert done is not None and done.weights is not None
    assert "has no audio layers" in capfd.readouterr().err
    trained = load_transformer(done.weights)
    assert trained.blocks[0].attn2.to_v_vocal.weight.any()  # type: ignore[union-attr, operator]


def test_a_resumed_run_from_wan_is_the_straight_one(job: Maker, wan: Path) -> None:
    straight = train(job("straight", weights=wan, steps=4))
    train(job("resumed", weights=wan, steps=2))
    resumed = train(job("resumed", weights=wan, steps=4))
    assert straight is not None and resumed is not None and straight.weights and resumed.weights
    one, other = load_file(straight.weights), load_file(resumed.weights)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("audio", ["frozen", "lora"])
def test_new_audio_layers_have_to_train_in_full(job: Maker, wan: Path, audio: str) -> None:
    with pytest.raises(UsageError, match=r"audio: got .*has no audio layers") as caught:
        train(job(weights=wan, **{**LORA, "audio": audio}))
    assert "--set audio=full" in str(caught.value.hint)


def test_a_lora_from_wan_brings_its_audio_layers(job: Maker, wan: Path) -> None:
    made = job(weights=wan, **{**LORA, "audio": "full"})
    done = train(made)
    assert done is not None and done.weights is not None
    merged, _ = load_merged(wan, [(done.weights, 1.0)], torch.float32)
    model, _ = model_of(made)
    from avatarctl.networks.attach import load_trained
    from avatarctl.training import checkpoints

    checkpoint = checkpoints.newest(made.output)[0]
    assert checkpoint is not None
    load_trained(model, checkpoint.tensors("trained"))
    inputs = tiny_inputs()
    with torch.no_grad():
        torch.testing.assert_close(merged.eval()(**inputs).sample, model.eval()(**inputs).sample, rtol=0, atol=1e-5)


def test_wan_alone_makes_no_video(wan: Path, job: Maker, base: Path) -> None:
    with pytest.raises(WeightsError, match="no audio adapter") as caught:
        load_transformer(wan)
    assert "avatarctl train --weights" in str(caught.value.hint)
    looks = train(job(weights=base, **{**LORA, "audio": "frozen"}))
    assert looks is not None and looks.weights is not None
    with pytest.raises(WeightsError, match="no audio adapter"):
        load_merged(wan, [(looks.weights, 1.0)], torch.float32)


def test_other_things_that_are_missing_are_still_refused(wan: Path, job: Maker, tmp_path: Path) -> None:
    kept = {name: tensor for name, tensor in load_file(wan).items() if name != "head.head.bias"}
    save_file(kept, tmp_path / "less.safetensors", DIMS)
    with pytest.raises(WeightsError, match=r"head\.head\.bias"):
        train(job(weights=tmp_path / "less.safetensors"))


def test_the_hubs_layouts_are_read(tmp_path: Path) -> None:
    """One file under released names, several with an index, and diffusers' own names: sizes come from shapes or config.json."""
    dims = TINY.with_(dim=128, heads=1, ffn=64, text_len=512, w2v=768, clip=1280, vocal_heads=8)
    model = tiny_transformer(dims)
    bare = {name: t.contiguous() for name, t in released_state(model).items() if "vocal" not in name}
    names = sorted(bare)
    folder = tmp_path / "Wan2.1-I2V-14B-480P"
    folder.mkdir()
    where = {}
    for part, some in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), start=1):
        file = f"diffusion_pytorch_model-0000{part}-of-00002.safetensors"
        save_file({name: bare[name] for name in some}, folder / file)
        where |= dict.fromkeys(some, file)
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    assert transformer_dims(index) == dims and not has_audio(index)
    diffusers = tmp_path / "transformer"
    diffusers.mkdir()
    ours = {name: t.contiguous() for name, t in model.state_dict().items() if not is_audio(name)}
    save_file(ours, diffusers / "diffusion_pytorch_model.safetensors")
    assert transformer_dims(diffusers / "diffusion_pytorch_model.safetensors") == dims
    config = {
        "_class_name": "WanTransformer3DModel",
        "num_attention_heads": 1,
        "attention_head_dim": 128,
        "num_layers": 2,
        "ffn_dim": 64,
        "text_dim": 24,
        "image_dim": 1280,
        "freq_dim": 32,
        "in_channels": 36,
        "out_channels": 16,
        "patch_size": [1, 2, 2],
    }
    (diffusers / "config.json").write_text(json.dumps(config))
    assert transformer_dims(diffusers) == dims and not has_audio(diffusers)


# -- From a LoRA ------------------------------------------------------------------------------------------------------


def predicted(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**tiny_inputs()).sample


@pytest.mark.parametrize("audio", ["full", "lora"])
@pytest.mark.parametrize(("rank", "alpha"), [(4, 8.0), (6, 3.0)])
def test_a_lora_run_begins_where_the_lora_stands(job: Maker, base: Path, audio: str, rank: int, alpha: float) -> None:
    first = train(job("first", **{**LORA, "audio": audio, "dropout": 0.0}))
    assert first is not None and first.weights is not None
    merged = load_transformer(base)
    merge_lora(merged, first.weights)
    made = job("second", init_lora=first.run, **{**LORA, "audio": audio, "rank": rank, "alpha": alpha})
    model, before = model_of(made)
    torch.testing.assert_close(predicted(model), predicted(merged), rtol=0, atol=1e-5)
    second = train(made)
    assert second is not None and second.weights is not None
    assert losses(second.run)[0] < losses(first.run)[0] * 1.5
    # The file of the second run holds the change of both.
    whole = load_transformer(base)
    merge_lora(whole, second.weights)
    from avatarctl.networks.attach import load_trained
    from avatarctl.training import checkpoints

    checkpoint = checkpoints.newest(made.output)[0]
    assert checkpoint is not None and before.keys() == model_of(made)[1].keys()
    load_trained(model, checkpoint.tensors("trained"))
    torch.testing.assert_close(predicted(whole), predicted(model), rtol=0, atol=1e-5)


def test_full_training_begins_with_the_lora_merged_in(job: Maker, base: Path) -> None:
    first = train(job("first", **{**LORA, "audio": "full"}))
    assert first is not None and first.weights is not None
    merged = load_transformer(base)
    merge_lora(merged, first.weights)
    model, _ = model_of(job("second", init_lora=first.weights, embeddings="full"))
    torch.testing.assert_close(predicted(model), predicted(merged), rtol=0, atol=1e-5)


def test_a_lora_that_the_run_does_not_train_is_refused_with_what_would(job: Maker) -> None:
    first = train(job("first", **{**LORA, "audio": "full"}))
    assert first is not None
    with pytest.raises(UsageError, match=r"changes .* layers that this run doesn't train so") as caught:
        train(job("second", init_lora=first.run, **{**LORA, "audio": "frozen"}))
    assert caught.value.hint == "--set audio=full"
    with pytest.raises(UsageError, match=r"got rank 4 .*, and this run has rank 2") as caught:
        train(job("third", init_lora=first.run, **{**LORA, "audio": "full", "rank": 2}))
    assert "--rank 4" in str(caught.value.hint)
    with pytest.raises(UsageError, match="expected a LoRA file"):
        train(job("fourth", init_lora=first.run / "nothing", **LORA))


# -- Settings without effect ------------------------------------------------------------------------------------------


def test_weights_beside_random_ones_are_a_contradiction(base: Path) -> None:
    dims = {"dim": 48, "heads": 4, "layers": 1, "ffn": 64}
    for name in ("weights", "init_lora"):
        with pytest.raises(ValueError, match=f"{name}: has no effect where dims begins from random weights"):
            TrainSettings(dims=dims, **{name: base})


@pytest.mark.parametrize(
    ("given", "others"),
    [
        ("rank", {}),
        ("logit_mean", {}),
        ("motion_axis", {}),
        ("null_text", {"drop_text": 0.0}),
        (
            "null_text",
            {
                **STUDENT,
                "distill": "guidance",
                "teacher_text_scale": 1.0,
                "teacher_audio_scale": 1.0,
                "teacher_guidance": [
                    {"text": "positive", "audio": "zero", "tokens": "zero", "weight": -1.0},
                    {"text": "positive", "audio": "window", "tokens": "adapter", "weight": 2.0},
                ],
            },
        ),
        ("time", {**STUDENT, "distill": "steps"}),
        ("stratify", {**STUDENT, "distill": "steps"}),
        ("variant", {"dims": {"dim": 48, "heads": 4, "layers": 1, "ffn": 64}}),
        ("holdout_every", {}),
        ("clip_fall_steps", {}),
        ("validation_preset", {}),
    ],
)
def test_what_was_given_and_changes_nothing_is_refused(given: str, others: dict[str, Any]) -> None:
    settings = TrainSettings(**others)
    with pytest.raises(UsageError, match=rf"{given} \(--set {given}\): has no effect") as caught:
        refuse_without_effect(settings, {given: f"--set {given}"})
    assert f"leave out --set {given}" in str(caught.value.hint)
    refuse_without_effect(settings, {})


def test_the_null_text_of_a_teacher_that_reads_it_has_an_effect() -> None:
    refuse_without_effect(TrainSettings(**STUDENT, distill="guidance"), {"null_text": "--set null_text"})


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"steps": 9}, "steps .*each of the 3 stages that use it has its own"),
        ({"teacher_evaluations": 7}, "teacher_evaluations .*each of the 2 stages that use it has its own"),
        ({"distill_steps": 6}, "distill_steps .*each of the 2 stages that use it has its own"),
        ({"distill": "steps"}, "distill .*each of the 3 stages"),
        ({"own_states": 0.5}, None),
    ],
)
@pytest.mark.parametrize("in_a_preset", [False, True])
def test_what_every_stage_says_for_itself_is_refused_wherever_it_was_given(
    tmp_path: Path, given: dict[str, Any], why: str | None, in_a_preset: bool
) -> None:
    preset = "distill-puppet"
    if in_a_preset:
        preset = str(tmp_path / "mine.yaml")
        lines = [f"{name}: {value}" for name, value in given.items()]
        Path(preset).write_text("\n".join(["extends: distill-puppet", *lines]) + "\n")
    flags = {} if in_a_preset else given
    values, places = resolve(TrainSettings.model_fields, preset, flags, "lora")
    settings = make(TrainSettings, values, places)
    copied = resolve(TrainSettings.model_fields, str(shutil.copy(find("distill-puppet", "lora"), tmp_path)), {}, "lora")
    refuse_of_stages(make(TrainSettings, *copied), copied[1])  # what stands beside the stages is a single student's
    if why is None:
        refuse_of_stages(settings, places)
        return
    with pytest.raises(UsageError, match=why):
        refuse_of_stages(settings, places)
