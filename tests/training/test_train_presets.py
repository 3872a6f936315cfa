"""Tests with the presets for training: they are settings, that one of them explains all and launchers read theirs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from avatarctl.errors import UsageError
from avatarctl.networks.transformer import StableAvatarTransformer3DModel
from avatarctl.paths import STUDENT_FILE, embedded_avatar, shipped_presets
from avatarctl.settings.check import make
from avatarctl.settings.distill import stage_settings
from avatarctl.settings.encode import EncodeSettings
from avatarctl.settings.presets import HEADER, load, read
from avatarctl.settings.train import TrainSettings
from avatarctl.training.distill_cost import passes_of_state
from avatarctl.training.model import teacher_loras

ACCELERATE = sorted((shipped_presets() / "train" / "accelerate").glob("*.yaml"))


def test_three_files_explain_every_setting() -> None:
    full, lora, student = load("full-1.3b", "train"), load("person-1.3b", "lora"), load("distill-1.3b", "lora")
    assert set(full.values) | set(lora.values) | set(student.values) == set(TrainSettings.model_fields)
    for manual in (full, lora, student):
        lines = manual.path.read_text().splitlines()
        own = manual.values if manual is not student else set(read(student.path)[0]) - set(HEADER)
        for name in own:
            [line] = [line for line in lines if line.startswith(f"{name}:")]
            assert "#" in line or name in full.values, f"{name} is not explained"


def test_full_training_is_the_default() -> None:
    settings = make(TrainSettings, load("full-1.3b", "train").values)
    names = TrainSettings.model_fields
    different = {name for name in names if getattr(settings, name) != names[name].default}
    assert different == {"holdout", "validation_preset"}


def test_the_released_trainer_setting_by_setting() -> None:
    """As its script and its code have it (train_1B_square)."""
    settings = make(TrainSettings, load("released-1.3b", "train").values)
    wanted = {
        "variant": "wan2.1-fun-1.3b",
        "embeddings": "frozen",
        "shift": 5.0,
        "time": "uniform",
        "stratify": True,
        "whole_probability": 0.4,
        "face_probability": 0.1,
        "normalise_masks": False,
        "motion_weight": 0.25,
        "motion_axis": "channels",
        "drop_audio": 0.1,
        "drop_tokens": 0.0,
        "drop_text": 0.0,
        "clip_audio": 0.3,
        "optimizer": "adamw",
        "learning_rate": 2e-5,
        "warmup_steps": 100,
        "decay": "constant",
        "betas": (0.9, 0.999),
        "epsilon": 1e-10,
        "weight_decay": 0.03,
        "clip_norm": 0.05,
        "clip_start": 5.0,
        "clip_fall_steps": 1000,
        "clip_outliers": 10.0,
        "batch_size": 1,
        "accumulate": 1,
        "gradient_checkpointing": True,
        "seed": 42,
        "checkpoint_every": 2000,
    }
    assert {name: getattr(settings, name) for name in wanted} == wanted
    encoding = make(EncodeSettings, load("released", "data").values)
    assert (encoding.window, encoding.starts, encoding.latents) == (21, "random", "sample")


@pytest.mark.parametrize("name", ["full-1.3b", "full-14b", "released-1.3b", "tiny", "puppet", "puppet-lips"])
def test_presets_of_full_training(name: str) -> None:
    assert not make(TrainSettings, load(name, "train").values).is_lora


def test_the_lora_preset_trains_little_on_a_small_base() -> None:
    settings = make(TrainSettings, load("person-1.3b", "lora").values)
    assert settings.is_lora and settings.base_dtype == "float8"


@pytest.mark.parametrize("name", ["distill-1.3b", "distill-person", "distill-puppet"])
def test_presets_of_students(name: str) -> None:
    stages = stage_settings(make(TrainSettings, load(name, "lora").values))
    assert [folder for folder, _ in stages] == ["1-guidance", "2-steps-8", "3-steps-4"]
    for _, settings in stages:
        # Four noise levels of one path a step; every clip has its own where guidance alone is learnt.
        states = settings.states_per_clip * settings.passes_per_batch
        assert states == (4 if settings.distill == "steps" else 1)
        student, teacher, path = passes_of_state(settings.model_copy(update={"gradient_checkpointing": True}))
        assert (student + teacher + path) / student <= 4.5


def test_students_for_a_person_ask_for_the_person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = make(TrainSettings, load("distill-person", "lora").values)
    with pytest.raises(UsageError, match="teacher_lora: got person, expected a LoRA") as told:
        teacher_loras(settings)
    assert told.value.hint == "--set teacher_lora=PERSON.safetensors"
    (tmp_path / "person").mkdir()
    shutil.copy(embedded_avatar() / "weights" / STUDENT_FILE, tmp_path / "person" / "lora.safetensors")
    assert teacher_loras(settings) == [(Path("person/lora.safetensors"), 1.0)]


@pytest.mark.parametrize("path", ACCELERATE, ids=lambda path: path.stem)
def test_launchers_read_their_configurations(path: Path) -> None:
    config = load_config_from_file(str(path))
    wrapped = getattr(config, "fsdp_config", {}).get("fsdp_transformer_layer_cls_to_wrap")
    if wrapped:
        assert wrapped in StableAvatarTransformer3DModel._no_split_modules


def test_there_is_a_configuration_for_each_way() -> None:
    assert {path.stem for path in ACCELERATE} == {"one-gpu", "several-gpus", "fsdp2", "deepspeed-zero2"}
