"""Tests with plain values: what settings make of them and every mistake is named at once and in place."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from avatarctl.errors import UsageError
from avatarctl.settings.base import Settings
from avatarctl.settings.check import describe, make
from avatarctl.settings.names import keys_of
from avatarctl.settings.placement import PlacementSettings
from avatarctl.settings.presets import read
from avatarctl.settings.render import AllSettings, InputSettings, RenderSettings, WeightsSettings
from avatarctl.settings.train import TrainSettings
from avatarctl.settings.values import parse_lora

MODELS = (RenderSettings, PlacementSettings, WeightsSettings, InputSettings)


def complaint(model: type[Settings], places: dict[str, str] | None = None, **values: Any) -> str:
    with pytest.raises(UsageError) as caught:
        make(model, values, places)
    return caught.value.message


KNOWN = "the released weights know 512x512, 480x832 and 832x480"


@pytest.mark.parametrize(
    ("given", "exact"),
    [
        (25, "25"),
        ("25", "25"),
        (12.5, "25/2"),
        (23.976, "24000/1001"),
        ("29.97", "30000/1001"),
        (59.94, "60000/1001"),
        ("30000/1001", "30000/1001"),
    ],
)
def test_frame_rates_are_exact_and_survive_json(given: Any, exact: str) -> None:
    settings = make(RenderSettings, {"fps": given})
    assert settings.fps == Fraction(exact)
    assert json.loads(settings.model_dump_json())["fps"] == exact
    assert RenderSettings.model_validate_json(settings.model_dump_json()) == settings


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (90, 90),
        (1.5, 1.5),
        ("90", 90),
        ("90s", 90),
        (" 2.5 s ", 2.5),
        (".5", 0.5),
        ("0:01", 1),
        ("1:30", 90),
        ("1:02.5", 62.5),
        ("0:00.1", 0.1),
        ("1:02:03.5", 3723.5),
        ("90:00", 5400),
    ],
)
def test_times(given: Any, seconds: float) -> None:
    settings = make(RenderSettings, {"start_s": given, "duration_s": given, "checkpoint_every_s": given})
    assert settings.start_s == settings.duration_s == settings.checkpoint_every_s == seconds
    assert make(RenderSettings, {"contact_sheet_every_s": given}).contact_sheet_every_s == seconds
    assert make(TrainSettings, {"checkpoint_every_s": given}).checkpoint_every_s == seconds


@pytest.mark.parametrize("written", ["1:30", "0:01", "1:02:03.5", "'1:30'", "90s", "1:02.5"])
def test_times_in_presets_are_those_of_the_flags(tmp_path: Path, written: str) -> None:
    (tmp_path / "mine.yaml").write_text(f"start_s: {written}\n")
    from_file = make(RenderSettings, read(tmp_path / "mine.yaml")[0]).start_s
    assert from_file == make(RenderSettings, {"start_s": written.strip("'")}).start_s


@pytest.mark.parametrize("given", ["1:75", "1:60:00", "1:2:3:4", "soon", "1m", "", ":30", "1:", "nan", True, [1]])
def test_times_that_are_none(given: Any) -> None:
    told = complaint(RenderSettings, {"start_s": "--start"}, start_s=given)
    assert told.startswith(
        f"start (--start): got '{given}', expected a time such as 90, 90s, 1:30, 1:02.5 or 1:02:03.5"
    )


@pytest.mark.parametrize("given", ["480x832", (480, 832), [480, 832], {"width": 480, "height": 832}])
def test_sizes(given: Any) -> None:
    assert make(RenderSettings, {"size": given}).size == (480, 832)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"size": "500x512"},
            "size: got 500x512, expected 64 to 4096 and divisible by 16, such as 496x512; " + KNOWN,
        ),
        ({"size": [512.7, 512]}, "size: got '[512.7, 512]', expected WIDTHxHEIGHT"),
        ({"size": [None, 512]}, "size: got '[None, 512]', expected WIDTHxHEIGHT"),
        ({"fps": 0}, "fps: got 0, expected 1 to 240"),
        ({"fps": "1/0"}, "fps: got '1/0', expected frames per second"),
        ({"seed": -1}, "seed: got '-1', expected greater than or equal to 0"),
        ({"seed": 2**63}, "seed: got '9223372036854775808', expected less than 9223372036854775808"),
        ({"steps": 1001}, "steps: got '1001', expected less than or equal to 1000"),
        ({"audio_scale": float("nan")}, "audio_scale: got 'nan', expected a finite number"),
        ({"overlap": 1}, "overlap: got '1', expected greater than or equal to 2"),
        ({"overlap": 21}, "overlap: got 21, expected less than the window of 21 latent frames"),
        ({"blend": "lin"}, "blend: got 'lin', expected 'linear' or 'log', did you mean linear?"),
        ({"guidance": "cgf"}, "guidance: got 'cgf', expected 'cfg', 'native' or 'none', did you mean cfg?"),
        ({"guidance_interval": [0.8, 0.2]}, "guidance_interval: got [0.8, 0.2], expected 0 <= low < high <= 1"),
        ({"name": "x"}, "name: unknown setting"),
        ({"stepz": 3}, "stepz: unknown setting, did you mean steps?"),
    ],
)
def test_wrong_render_settings_are_named(values: dict[str, Any], said: str) -> None:
    message = complaint(RenderSettings, **values)
    assert message.startswith(said) and "\n" not in message


def test_devices() -> None:
    assert make(PlacementSettings, {"device": "cuda:3"}).device == "cuda:3"
    assert complaint(PlacementSettings, device="gpu") == "device: got 'gpu', expected auto, cpu, cuda or cuda:N"


def test_lora() -> None:
    assert make(WeightsSettings, {"lora": "a.safetensors:0.5"}).lora == ("a.safetensors:0.5",)
    assert parse_lora("a:0.5") == ("a", 0.5)
    assert parse_lora("a") == ("a", 1.0)
    assert parse_lora("C:/a") == ("C:/a", 1.0)
    assert complaint(WeightsSettings, lora=["a", ":1"]).startswith("lora.1: got ':1', expected FILE")
    assert complaint(WeightsSettings, lora=["a:inf"]).startswith("lora.0: got 'a:inf', expected FILE")


def test_guidance_table() -> None:
    rows = [
        {"text": "positive", "audio": "window", "tokens": "adapter", "weight": 3},
        {"text": "negative", "audio": "zero", "tokens": "zero", "weight": -2},
    ]
    table = make(RenderSettings, {"guidance": rows}).guidance
    assert isinstance(table, tuple) and table[1].weight == -2.0 and table[1].audio == "zero"
    rows[1]["weight"] = -1
    assert complaint(RenderSettings, guidance=rows) == "guidance: got weights that add up to 2, expected 1"
    rows[0] = {"text": "positiv", "audio": "window", "tokens": "adapter", "weigth": 1}
    assert complaint(RenderSettings, {"guidance": "line 3", "guidance.0.text": "line 4"}, guidance=rows).split(
        "\n"
    ) == [
        "guidance.0.text (line 4): got 'positiv', expected 'positive' or 'negative', did you mean positive?",
        "guidance.0.weight (line 3): missing",
        "guidance.0.weigth (line 3): unknown setting, did you mean weight?",
    ]


def test_all_mistakes_are_listed_with_their_places() -> None:
    places = {"steps": "a.yaml, line 1", "crf": "--crf"}
    assert complaint(AllSettings, places, steps=0, crf=60, memory="fulll").split("\n") == [
        "memory: got 'fulll', expected 'auto', 'full', 'model', 'group' or 'sequential', did you mean full?",
        "steps (a.yaml, line 1): got '0', expected greater than or equal to 1",
        "crf (--crf): got '60', expected less than or equal to 51",
    ]
    # A rule over two fields blames the one to change.
    assert complaint(RenderSettings, {"overlap": "--overlap"}, overlap=30).startswith("overlap (--overlap): got 30")


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        RenderSettings().steps = 3  # type: ignore[misc]


@pytest.mark.parametrize("model", MODELS)
def test_every_field_is_described_and_in_the_schema(model: type[Settings]) -> None:
    described, schema = describe(model), model.model_json_schema()["properties"]
    described = {field: described[key] for key, field in keys_of(schema).items()}
    assert set(described) == set(model.model_fields) == set(schema)
    for name, (takes, default, does) in described.items():
        assert takes and does and "Annotated" not in takes, name
        assert make(model, {name: default}) == model(), "a default must be what a file may say"


def test_parts_of_all_settings() -> None:
    everything = make(AllSettings, {"steps": 7, "device": "cpu", "lora": ["a:2"], "size": "64x80", "fps": "29.97"})
    assert everything.part(RenderSettings) == RenderSettings(steps=7, size=(64, 80), fps=Fraction(30000, 1001))
    assert everything.part(PlacementSettings) == PlacementSettings(device="cpu")
    assert everything.part(WeightsSettings) == WeightsSettings(lora=("a:2",))
    assert sum(len(model.model_fields) for model in MODELS) == len(AllSettings.model_fields), "names must not collide"
