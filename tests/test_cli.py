"""Tests with the command line as users type it: quick help, a working program without torch, and true completions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest

from avatarctl import __version__
from avatarctl.commands import options
from avatarctl.settings.render import AllSettings

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "numpy", "transformers", "diffusers", "accelerate", "peft", "pydub", "rich")
RUN = "import sys; sys.argv = ['avatarctl', *sys.argv[1:]]; from avatarctl.cli import main; main()"


def run(*words: str, code: str = RUN, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env={**os.environ, **environment},
    )


def test_version_and_module() -> None:
    assert run("--version").stdout == f"avatarctl {__version__}\n"
    out = subprocess.run([sys.executable, "-m", "avatarctl", "--version"], capture_output=True, text=True, cwd=ROOT)
    assert out.stdout == f"avatarctl {__version__}\n"


def test_nothing_heavy_is_imported_for_the_command_line() -> None:
    below = sorted(path.stem for path in (ROOT / "avatarctl" / "commands").glob("*.py") if path.stem != "__init__")
    modules = [f"avatarctl.commands.{name}" for name in below]
    modules += [f"avatarctl.{name}" for name in ("cli", "errors", "paths", "settings", "settings.presets", "console")]
    code = f"import {', '.join(modules)}, sys; print([m for m in {HEAVY} if m in sys.modules])"
    assert run(code=code).stdout == "[]\n"
    # What only a running command needs would slow every --help down.
    code = "import avatarctl.cli, sys; print([m for m in ('pydantic', 'yaml', 'platformdirs') if m in sys.modules])"
    assert run(code=code).stdout == "[]\n"


def test_start_is_quick() -> None:
    code = "import time; start = time.process_time(); import avatarctl.cli; print(time.process_time() - start)"
    assert min(float(run(code=code).stdout) for _ in range(3)) < 0.3


def test_help_works_when_torch_is_broken(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('broken on purpose')")
    out = run("--help", PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert out.returncode == 0 and "Exit codes: 0 done" in out.stdout
    out = run("presets", "list", PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert out.returncode == 0 and "square" in out.stdout


def test_usage_error_exits_with_2() -> None:
    assert run("--no-such-option").returncode == 2


def test_json_of_a_usage_error_is_one_object() -> None:
    out = run("presets", "show", "--json")
    assert out.returncode == 2 and "NAME: missing" in out.stderr
    found = json.loads(out.stdout)
    assert (found["avatarctl_result"], found["status"], found["exit_code"]) == (1, "failed", 2)
    assert found["errors"] == [
        {
            "message": "NAME: missing, expected preset by name, or a YAML file",
            "hint": "avatarctl presets show --json NAME",
        }
    ]


def test_error_has_message_hint_and_its_exit_code() -> None:
    out = run("presets", "show", "no-such")
    assert out.returncode == 2 and out.stdout == ""
    assert out.stderr.startswith("error: preset 'no-such'") and "\nhint: " in out.stderr


# A command that fails as asked, registered beside the real ones, run through the real main().
FAILING = """
import sys
from avatarctl import cli, console, errors
@cli.app.command()
def fail() -> None:
    console.quiet(True)
    console.note("not said")
    raise {what}
sys.argv = ["avatarctl", "fail"]
cli.main()
"""


@pytest.mark.parametrize(
    ("what", "code", "said"),
    [
        (
            "errors.WeightsError('no such weights', 'avatarctl fetch')",
            5,
            "error: no such weights\nhint: avatarctl fetch",
        ),
        ("ZeroDivisionError('x / 0')", 1, "this is a bug of ours: ZeroDivisionError: x / 0"),
        ("KeyboardInterrupt", 130, ""),
    ],
)
def test_what_a_command_raises_becomes_message_and_exit_code(what: str, code: int, said: str) -> None:
    out = run(code=FAILING.format(what=what), AVATARCTL_DEBUG="")
    assert out.returncode == code and said in out.stderr
    assert "Traceback" not in out.stderr and "not said" not in out.stderr


def test_debug_shows_the_traceback_and_keeps_the_exit_code() -> None:
    out = run(code=FAILING.format(what="errors.WeightsError('gone')"), AVATARCTL_DEBUG="1")
    assert out.returncode == 5 and "Traceback" in out.stderr


def test_choices_of_options_are_those_of_the_settings() -> None:
    fields = {name.replace("_", ""): field.annotation for name, field in AllSettings.model_fields.items()}
    compared = 0
    for name, option in vars(options).items():
        choices = set(words_of(option)) if get_origin(option) is Annotated else set()
        if choices and name.lower() in fields:
            assert choices == set(words_of(fields[name.lower()])), name
            compared += 1
    assert compared == 12, "blend, guidance, solver, schedule, fit, codec, memory, variant, and four number formats"


def words_of(kind: Any) -> list[str]:
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    return [word for part in get_args(kind) for word in words_of(part)]
