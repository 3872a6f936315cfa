"""Tests with preset files, the environment and flags: which value wins, where it came from, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from avatarctl import cli, paths
from avatarctl.errors import AvatarError, UsageError
from avatarctl.settings import presets
from avatarctl.settings.check import make
from avatarctl.settings.names import keys_of
from avatarctl.settings.render import AllSettings

FIELDS = AllSettings.model_fields
SHIPPED = (
    *("draft", "few-step", "landscape", "long", "low-memory"),
    *("portrait", "puppet", "quality", "released", "square"),
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AVATARCTL_HOME", str(tmp_path / "home"))
    folder = tmp_path / "home" / "config" / "presets" / "render"
    folder.mkdir(parents=True)
    return folder


def write(folder: Path, name: str, text: str) -> str:
    path = folder / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def command(*words: str) -> Any:
    """Run a command that succeeds, give the data of its JSON."""
    done = CliRunner().invoke(cli.app, ["presets", *words, "--json"], catch_exceptions=False)
    found = json.loads(done.stdout)
    assert done.exit_code == 0 and found["command"] == f"presets {words[0]}" and found["status"] == "done"
    return found["data"]


def refusal(*words: str) -> AvatarError:
    with pytest.raises(AvatarError) as caught:
        CliRunner().invoke(cli.app, ["presets", *words], catch_exceptions=False)
    return caught.value


def test_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert paths.weights_folder() == paths.data_folder() / "weights" == tmp_path / "home" / "data" / "weights"
    assert paths.cache_folder() == tmp_path / "home" / "cache"
    monkeypatch.setenv("AVATARCTL_WEIGHTS", str(tmp_path / "w"))
    assert paths.weights_folder() == tmp_path / "w"
    monkeypatch.delenv("AVATARCTL_HOME")
    assert paths.config_folder().name == "avatarctl" and tmp_path not in paths.config_folder().parents


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_presets_are_valid_and_commented(name: str) -> None:
    loaded = presets.load(name)
    make(AllSettings, loaded.values, loaded.places)
    assert loaded.description
    lines = loaded.path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    knobs = [line for line in lines if re.match(r"\w+:", line) and not line.startswith(("description", "extends"))]
    assert knobs and all("# " in line for line in knobs), "every knob tells its effect in place"


def test_the_shipped_ones_are_these() -> None:
    assert tuple(sorted(presets.names())) == SHIPPED
    for name, size in (("portrait", (480, 832)), ("landscape", (832, 480))):
        assert make(AllSettings, presets.load(name).values).size == size
    assert make(AllSettings, presets.load("square").values) == AllSettings(), "square is the defaults, explained"


def test_precedence_and_sources(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = write(home, "base", "steps: 1\ncrf: 1\nshift: 1\n")
    mine = write(home, "mine", "extends: base\ncrf: 2\nshift: 2\n")
    monkeypatch.setenv("AVATARCTL_SHIFT", "3")
    monkeypatch.setenv("AVATARCTL_OVERLAP", "7")
    values, sources = presets.resolve(FIELDS, "mine", {"overlap": 8, "steps": None, "with_audio": False})
    assert values == {"steps": 1, "crf": 2, "shift": 3, "overlap": 8, "with_audio": False}, "off is given, None is not"
    assert sources == {
        "steps": f"{base}, line 1",
        "crf": f"{mine}, line 2",
        "shift": "AVATARCTL_SHIFT",
        "overlap": "--overlap",
        "with_audio": "--with-audio",
    }


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVATARCTL_WEIGHTS", "/my: weights")
    monkeypatch.setenv("AVATARCTL_PROMPT", "A man: he sings")
    monkeypatch.setenv("AVATARCTL_GUIDANCE_INTERVAL", "[0.1, 0.9]")
    monkeypatch.setenv("AVATARCTL_DURATION_S", "null")
    made = make(AllSettings, presets.resolve(FIELDS, None, {})[0])
    assert made.weights == Path("/my: weights") == paths.weights_folder()
    assert made.prompt == "A man: he sings"
    assert made.guidance_interval == (0.1, 0.9) and made.duration_s is None
    monkeypatch.setenv("AVATARCTL_STEPS", "[1")
    with pytest.raises(UsageError, match=r"AVATARCTL_STEPS: got '\[1'"):
        presets.resolve(FIELDS, None, {})


def test_a_users_preset_shadows_a_shipped_one(home: Path) -> None:
    write(home, "draft", "steps: 3\n")
    assert presets.load("draft").values == {"steps": 3}
    rows = {row["name"]: row for row in command("list")["presets"]}
    assert rows["draft"]["from"] == "yours" and rows["draft"]["shadows"] == str(
        paths.shipped_presets() / "render/draft.yaml"
    )
    assert rows["square"]["from"] == "shipped" and rows["square"]["shadows"] is None


def test_a_shadowing_preset_is_told_when_used(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = write(home, "draft", "steps: 3\n")
    presets.resolve(FIELDS, "square", {})
    assert capsys.readouterr().err == ""
    presets.resolve(FIELDS, "draft", {})
    err = capsys.readouterr().err
    assert f"preset draft: yours ({mine}), not the shipped one (" in err


def test_a_preset_may_extend_the_one_it_shadows(home: Path) -> None:
    write(home, "draft", "extends: draft\nsteps: 3\n")
    loaded = presets.load("draft")
    assert loaded.values["steps"] == 3 and loaded.values["crf"] == 23 and loaded.values["size"] == "512x512"
    write(home, "square", "extends: draft\ncrf: 1\n")  # yours, yours, shipped draft, shipped square
    assert presets.load("square").values["steps"] == 3 and presets.load("square").values["crf"] == 1


def test_extends_by_path_is_seen_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    write(tmp_path, "base", "steps: 9\n")
    child = write(tmp_path / "deep", "child", "extends: ../base.yaml\n")
    assert presets.load(child).values == {"steps": 9}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steps: [1\ncrf: 2", r"line 2, column 4"),
        ("- steps", "got list, expected settings"),
        ("", "got an empty file, expected settings"),
        ("steps: 1\nsteps: 2", r"line 2: 'steps' stands there twice \(first in .*, line 1\)"),
        ("guidance:\n- text: a\n  text: b", r"line 3: 'guidance.0.text' stands there twice"),
        ("steps: !!python/object/apply:os.getcwd []", "broken YAML in line 1"),
        ("prompt: 2001-99-99", "can't be read"),
        ("prompt: \xff\x00", "broken YAML|can't be read"),
        ("extends: mine", "extends itself"),
        ("steps: 1\nextends: dreft", r"extends \(.*mine.yaml, line 2\): preset 'dreft': not found"),
        ("extend: square", r"extend \(.*line 1\): unknown setting, did you mean extends\?"),
        ("descripton: x", "did you mean description"),
    ],
)
def test_broken_files_are_refused(home: Path, text: str, said: str) -> None:
    write(home, "mine", text)
    with pytest.raises(UsageError, match=said):
        presets.load("mine")


def test_yaml_that_contains_itself_ends(home: Path) -> None:
    write(home, "mine", "guidance: &a [*a]\n")
    with pytest.raises(UsageError, match="guidance"):
        make(AllSettings, presets.load("mine").values)


def test_unknown_preset_names_the_near_and_the_known() -> None:
    error = refusal("show", "drafd")
    assert "drafd" in error.message and "did you mean draft?" in error.hint and "low-memory" in error.hint


def test_list_survives_a_broken_preset(home: Path) -> None:
    write(home, "mine", "steps: [1")
    rows = {row["name"]: row for row in command("list")["presets"]}
    assert "presets check mine" in rows["mine"]["description"] and rows["square"]["from"] == "shipped"


def test_show_tells_value_source_and_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVATARCTL_FPS", "29.97")
    shown = command("show", "draft")["settings"]
    assert set(shown) == set(keys_of(FIELDS))
    assert shown["fps"]["value"] == "30000/1001" and shown["fps"]["source"] == "AVATARCTL_FPS"
    assert shown["steps"]["value"] == 16 and "draft.yaml, line" in shown["steps"]["source"]
    assert shown["seed"]["source"] == "default" and shown["seed"]["does"]


def test_check_lists_every_mistake_of_every_file(home: Path) -> None:
    assert command("check", "--kind", "render")["checked"] == list(SHIPPED)
    one = write(home, "one", "stepz: 3\ncrf: 99\n")
    write(home, "two", "guidance:\n- {text: positive, audio: window, tokens: adapter, weight: 1}\n- text: loud\n")
    error = refusal("check")
    assert error.exit_code == 2
    assert f"stepz ({one}, line 1): unknown setting, did you mean steps?" in error.message
    assert f"crf ({one}, line 2): got '99'" in error.message
    assert re.search(r"guidance\.1\.text \(.*two\.yaml, line 3\): got 'loud'", error.message)
    assert "crf" not in refusal("check", "two").message


def test_check_lists_settings_beside_a_broken_extends(home: Path) -> None:
    write(home, "one", "extends: dreft\nstepz: 3\n")
    write(home, "two", "extends: one\ncrf: 99\n")
    lines = refusal("check", "one").message.split("\n")
    assert len(lines) == 2 and "line 1): preset 'dreft': not found" in lines[0] and "did you mean steps?" in lines[1]
    write(home, "three", "extend: square\nstepz: 3\n")
    assert len(refusal("check", "three").message.split("\n")) == 2, "every mistake once"
    assert presets.mistakes("square") == [] and "not found" in presets.mistakes("no-such")[0]


def test_copy_keeps_comments_and_does_not_replace(home: Path, tmp_path: Path) -> None:
    copied = Path(command("copy", "portrait", "phone")["path"])
    assert copied == home / "phone.yaml" and copied.read_bytes() == presets.names()["portrait"].read_bytes()
    copied.write_text("steps: 4\n")
    assert "is there already" in refusal("copy", "portrait", "phone").message
    assert copied.read_text() == "steps: 4\n"
    command("copy", "portrait", "phone", "--force")
    assert presets.load("phone").values["size"] == "480x832"
    assert Path(command("copy", "draft", str(tmp_path / "here.yaml"))["path"]).is_file()
    assert "expected a name" in refusal("copy", "draft", "../outside").message
