"""Tests with presets of every kind: they are listed, shown, copied and checked and editors get their schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer
import yaml
from typer.testing import CliRunner

from avatarctl import cli, paths
from avatarctl.commands.settings_text import COLUMNS, first_line, settings_table
from avatarctl.errors import AvatarError, DeviceError, InputFileError, UsageError
from avatarctl.settings import presets
from avatarctl.settings.check import make
from avatarctl.settings.names import KEYS, flag_of, keys_of, to_fields
from avatarctl.settings.schema import preset_schema

SHIPPED = [(kind, name) for kind in presets.KINDS for name in sorted(presets.names(kind))]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AVATARCTL_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "config" / "presets"


def write(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def out(*words: str) -> str:
    done = CliRunner().invoke(cli.app, ["presets", *words], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def data(*words: str) -> Any:
    return json.loads(out(*words, "--json"))["data"]


def refusal(*words: str) -> AvatarError:
    with pytest.raises(AvatarError) as caught:
        CliRunner().invoke(cli.app, ["presets", *words], catch_exceptions=False)
    return caught.value


# -- kinds ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("kind", "name"), SHIPPED, ids="-".join)
def test_shipped_presets_of_every_kind_are_right(kind: str, name: str) -> None:
    assert presets.mistakes(name, kind) == []
    assert presets.load(name, kind).description and presets.is_shipped(presets.find(name, kind))


def test_list_by_kind() -> None:
    rows = data("list")["presets"]
    assert [(row["kind"], row["name"]) for row in rows] == SHIPPED
    assert {row["kind"] for row in data("list", "--kind", "train")["presets"]} == {"train"}
    assert "PRESET" in out("list").splitlines()[0] and "full-1.3b" in out("list")


def test_the_kind_is_told_from_name_or_folder(home: Path, tmp_path: Path) -> None:
    mine = write(home / "train", "mine", "steps: 7\n")
    assert presets.kind_of("mine") == presets.kind_of(str(mine)) == presets.kind_of("tiny") == "train"
    assert (
        presets.kind_of("square") == presets.kind_of("no-such") == presets.kind_of(str(tmp_path / "x.yaml")) == "render"
    )
    assert data("show", "mine")["settings"]["learning_rate"] and data("show", "mine")["kind"] == "train"
    assert data("check", str(mine), "square")["kinds"] == ["train", "render"]
    write(home / "train", "square", "steps: 9\n")  # both kinds have it now: the flag says which
    assert data("show", "square")["kind"] == "render"
    assert data("show", "square", "--kind", "train")["settings"]["steps"]["value"] == 9


def test_check_of_a_training_preset_names_training_settings(home: Path) -> None:
    path = write(home / "train", "mine", "learning_rte: 1\nrank: 0\nsize: 512x512\n")
    error = refusal("check", "mine")
    assert error.exit_code == 2 and len(error.message.split("\n")) == 3
    assert f"learning_rte ({path}, line 1): unknown setting, did you mean learning_rate?" in error.message
    assert f"rank ({path}, line 2): got '0'" in error.message
    assert error.hint.startswith("`avatarctl presets show full-1.3b`")


# -- show -----------------------------------------------------------------------------------------------------------
def test_show_raw_is_the_file(home: Path) -> None:
    path = paths.shipped_presets() / "render" / "portrait.yaml"
    assert out("show", "portrait", "--raw") == path.read_text()
    assert data("show", "portrait", "--raw")["text"] == path.read_text()
    write(home / "render", "mine", "steps: [1\n")
    assert "broken YAML" in refusal("show", "mine", "--raw").message


def test_explain_tells_the_source_of_every_value(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(home / "render", "mine", "extends: square\ncrf: 20\n")
    monkeypatch.setenv("AVATARCTL_OVERLAP", "7")
    rows = presets.explain("render", "mine", {"start_s": 2.5, "steps": None})
    told = {name: (row["value"], row["source"]) for name, row in rows.items()}
    assert told["crf"] == (20, f"{path}, line 2")
    assert told["overlap"] == (7, "AVATARCTL_OVERLAP")
    assert told["start"] == (2.5, "--start")
    assert told["steps"][0] == 50 and "square.yaml, line" in told["steps"][1]
    assert told["seed"] == (0, "default") and set(rows) == set(keys_of(presets.settings_class("render").model_fields))
    lines = settings_table(rows).splitlines()
    assert len(lines) == 2 * len(rows) + 1, "a line for the value, a line for what it does"
    assert [line.split()[1:] for line in lines if line.startswith(("overlap ", "crf ", "seed "))] == [
        ["0", "default"],
        ["7", "AVATARCTL_OVERLAP"],
        ["20", "mine,", "line", "2"],
    ]
    with pytest.raises(UsageError, match="crf"):
        presets.explain("render", "mine", {"crf": 99})


@pytest.mark.parametrize(("kind", "name"), SHIPPED, ids=str)
def test_show_can_be_read_at_80_columns(kind: str, name: str) -> None:
    shown = out("show", name, "--kind", kind).splitlines()
    assert [line for line in shown if len(line) > COLUMNS and line[0] != "/"] == []
    at = shown.index(next(line for line in shown if line.startswith("SETTING")))
    assert shown[at].split() == ["SETTING", "VALUE", "FROM"]
    for field in presets.settings_class(kind).model_fields.values():
        assert 10 <= len(first_line(field.description or "")) <= COLUMNS - 4, field.description


def test_show_tells_everything_about_one_setting() -> None:
    told = " ".join(out("show", "draft", "guidance").split())
    assert told.startswith("guidance = cfg How prompt and voice steer") and "all weights add up to 1" in told
    assert "square.yaml, line" in told and "takes: cfg | native | none" in told and "AVATARCTL_GUIDANCE" in told
    assert set(data("show", "draft", "steps")["settings"]) == {"steps"}
    assert "takes: whole number, 1 to 1000" in " ".join(out("show", "draft", "steps").split())
    error = refusal("show", "draft", "guidence")
    assert "did you mean guidance?" in error.message and error.hint == "avatarctl presets show draft guidance"
    assert len(out("show", "draft", "--long").splitlines()) > 4 * len(presets.settings_class("render").model_fields)


def test_generate_shows_the_picture_and_the_recording_that_it_would_use() -> None:
    line = ["generate", "-i", "drawn.jpg", "-a", "mine.wav", "--preset", "puppet", "--show-settings"]
    done = CliRunner().invoke(cli.app, [*line, "--json"], catch_exceptions=False)
    told = json.loads(done.stdout)["data"]
    assert (told["settings"]["image"]["value"], told["settings"]["image"]["source"]) == ("drawn.jpg", "--image")
    assert (told["inputs"]["audio"]["value"], told["inputs"]["audio"]["source"]) == ("mine.wav", "--audio")
    table = CliRunner().invoke(cli.app, line, catch_exceptions=False).stdout.splitlines()
    assert [row.split() for row in table if row.startswith(("image", "audio "))] == [
        ["audio", "mine.wav", "--audio"],
        ["image", "drawn.jpg", "--image"],
    ]


def test_flags_are_called_what_they_are_called() -> None:
    generate = typer.main.get_command(cli.app).commands["generate"]
    options = {opt for each in generate.params for opt in each.opts}
    fields = presets.settings_class("render").model_fields
    flags = {flag_of(name, fields) for name in fields}
    assert {flag_of(name, fields) for name in KEYS if name in fields} <= options
    beside = {
        "--image",
        "--audio",
        "--output",
        "--preset",
        "--resolution",
        "--work-dir",
        "--frames",
        "--keep",
        "--force",
        "--accept-changes",
        "--evaluate",
        "--for",
    }
    beside |= {"--dry-run", "--show-crop", "--show-settings", "--json", "--quiet", "--progress"}
    assert {opt for opt in options if opt.startswith("--")} <= flags | beside


# -- copy -----------------------------------------------------------------------------------------------------------
def test_copy_by_kind(home: Path) -> None:
    copied = Path(data("copy", "tiny", "small")["path"])
    assert copied == home / "train" / "small.yaml" and data("check", "small")["kinds"] == ["train"]
    assert data("copy", "square")["path"] == str(home / "render" / "square.yaml")
    assert "yours, not the shipped one" in out("list")


def test_a_copy_still_extends_the_file_beside_the_original(home: Path, tmp_path: Path) -> None:
    write(tmp_path, "base", "steps: 9\n")
    child = write(tmp_path, "child", "# mine\nextends: base.yaml  # beside\ncrf: 3\n")
    copied = Path(data("copy", str(child), "copied")["path"])
    assert presets.load("copied").values == {"steps": 9, "crf": 3}
    text = copied.read_text()
    assert text.startswith("# mine\nextends: ") and text.endswith("  # beside\ncrf: 3\n")
    beside = Path(data("copy", str(child), str(tmp_path / "twin.yaml"))["path"])
    assert beside.read_text() == child.read_text(), "nothing to change in the same folder"


@pytest.mark.parametrize("name", ["../outside", ".hidden", "a/b"])
def test_copy_refuses_names_that_are_none(name: str, home: Path) -> None:
    assert "expected a name" in refusal("copy", "draft", name).message
    assert not list(home.rglob("*.yaml"))


def test_copy_into_what_is_no_folder_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    error = refusal("copy", "draft", str(tmp_path / "file" / "x.yaml"))
    assert "which is a file" in error.message and error.exit_code == 2
    deeper = refusal("copy", "draft", str(tmp_path / "file" / "deep" / "x.yaml"))
    assert isinstance(deeper, InputFileError | DeviceError)
    (tmp_path / "folder.yaml").mkdir()
    error = refusal("copy", "draft", str(tmp_path / "folder.yaml"), "--force")
    assert isinstance(error, UsageError) and "is a folder" in error.message and "folder.yaml/mine.yaml" in error.hint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.yaml"]


# -- schema ---------------------------------------------------------------------------------------------------------
def errors(kind: str, text: str) -> list[str]:
    """Return where a preset breaks the schema, as an editor would tell."""
    validator = jsonschema.Draft202012Validator(preset_schema(kind))
    return [".".join(map(str, error.path)) or error.message for error in validator.iter_errors(yaml.safe_load(text))]


@pytest.mark.parametrize("kind", presets.KINDS)
def test_the_schema_is_one_and_explains_everything(kind: str) -> None:
    schema = json.loads(out("schema", "--kind", kind))
    jsonschema.Draft202012Validator.check_schema(schema)
    assert (
        data("schema", "--kind", kind)
        == {"kind": kind, "schema": schema}
        == {"kind": kind, "schema": preset_schema(kind)}
    )
    fields = presets.settings_class(kind).model_fields
    assert list(schema["properties"]) == ["description", "extends", *keys_of(fields)]
    for name, field in ((key, fields[name]) for key, name in keys_of(fields).items()):
        assert schema["properties"][name]["description"] == field.description, name
        assert errors(kind, yaml.safe_dump({name: schema["properties"][name]["default"]})) == [], name
    names = schema["properties"]["extends"]["anyOf"][0]["enum"]
    assert names == sorted(presets.names(kind))


@pytest.mark.parametrize(("kind", "name"), SHIPPED, ids="-".join)
def test_shipped_presets_fit_the_schema(kind: str, name: str) -> None:
    assert errors(kind, presets.find(name, kind).read_text(encoding="utf-8")) == []


FINE = [
    "size: 480x832",
    "size: 480 x 832",
    "size: [480, 832]",
    "fps: 25",
    "fps: 29.97",
    "fps: 30000/1001",
    "lora: style.safetensors:0.8",
    "lora: [a.safetensors, b.safetensors]",
    "guidance: native",
    "guidance:\n- {text: positive, audio: window, tokens: adapter, weight: 1}",
    "guidance_interval: [0.1, 0.9]",
    "guidance_interval: null",
    "duration: 3",
    "weights: /weights",
]


@pytest.mark.parametrize("text", FINE)
def test_what_settings_take_the_schema_takes(text: str) -> None:
    fields = presets.settings_class("render").model_fields
    make(presets.settings_class("render"), to_fields(yaml.safe_load(text), {}, fields)[0])
    assert errors("render", text) == []


def test_one_picture_stands_for_a_list_of_one() -> None:
    text = "validation_images: a.png\nvalidation_audio: [a.wav]\n"
    make(presets.settings_class("train"), yaml.safe_load(text))
    assert errors("train", text) == []
    assert errors("train", "validation_images: 3") == ["validation_images"]


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("stepz: 3", "stepz"),
        ("steps: many", "steps"),
        ("steps: 0", "steps"),
        ("size: large", "size"),
        ("size: [500, 512]", "size"),
        ("size: [512]", "size"),
        ("crf: 99", "crf"),
        ("blend: cubic", "blend"),
        ("guidance: cgf", "guidance"),
        ("guidance:\n- {text: loud, audio: window, tokens: adapter, weight: 1}", "guidance"),
        ("guidance:\n- {text: positive}", "guidance"),
        ("guidance_interval: [0.1]", "guidance_interval"),
        ("preview: maybe", "preview"),
        ("lora: 3", "lora"),
        ("description: [a]", "description"),
        ("extends: no-such", "extends"),
        ("- steps", "is not of type 'object'"),
    ],
)
def test_the_schema_refuses_what_is_wrong(text: str, where: str) -> None:
    found = errors("render", text)
    assert len(found) == 1 and where in found[0]


def test_the_schema_completes_presets_of_the_user(home: Path) -> None:
    write(home / "render", "mine", "steps: 3\n")
    assert errors("render", "extends: mine") == errors("render", "extends: ../other.yaml") == []
